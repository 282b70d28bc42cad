"""Tensors of the Open Inference Protocol v2 and its binary tensor data extension; pure.

Sources: kserve/open-inference-protocol `specification/protocol/inference_rest.md`, and triton-inference-server/server
`docs/protocol/extension_binary_data.md`: JSON first, its length in `Inference-Header-Content-Length`, then the raw
little-endian data of each tensor that has `binary_data_size`, in the order of the tensors.
"""

import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from depth_server.errors import InvalidRequestError

MAX_JSON_BYTES: Final = 4 * 1024**2
"""JSON of one request. Numbers in JSON take twenty times their memory while they are read; larger tensors are sent as
binary data."""

MAX_DIMENSIONS: Final = 4
"""Of a tensor: a batch of pictures."""

MAX_DIMENSION: Final = 1 << 31
"""Least number that no dimension reaches."""

LENGTH_BYTES: Final = 4
"""Bytes of the length before each element of a binary BYTES tensor."""

DTYPES: Final[dict[str, np.dtype[Any]]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
"""Numeric types that are taken; BYTES is the other one."""


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A tensor as it was sent.

    Attributes:
        name: Of the input.
        datatype: Of the protocol.
        shape: As declared, checked against the data.
        elements: Of a BYTES tensor.
        numbers: Of any other one, flat.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: tuple[bytes, ...] = ()
    numbers: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to be sent.

    Attributes:
        name: Of the output.
        shape: Of the data.
        data: fp32 numbers, or the elements of a BYTES tensor.
        binary: Whether it follows the JSON.
    """

    name: str
    shape: tuple[int, ...]
    data: NDArray[np.float32] | tuple[bytes, ...]
    binary: bool


def split_body(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """Separate the JSON of a request from the binary data behind it.

    Args:
        body: The whole body.
        header_length: `Inference-Header-Content-Length`; None where there is only JSON.

    Raises:
        InvalidRequestError: The length is wrong, or it is no JSON object.
    """
    length = len(body)
    if header_length is not None:
        text = header_length.strip()
        length = int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else -1
        if not 0 <= length <= len(body):
            message = f"Inference-Header-Content-Length is {text[:20]!r}, but the body has {len(body)} bytes"
            raise InvalidRequestError(message)
    if length > MAX_JSON_BYTES:
        message = f"the JSON has {length} bytes, the limit is {MAX_JSON_BYTES}; send tensors as binary data"
        raise InvalidRequestError(message)
    view = memoryview(body)
    try:
        parsed = orjson.loads(view[:length])
    except orjson.JSONDecodeError as error:
        message = f"the request is not valid JSON: {error}"
        raise InvalidRequestError(message) from error
    if not isinstance(parsed, dict):
        message = "the request is not a JSON object"
        raise InvalidRequestError(message)
    return parsed, view[length:]


def read_tensors(declared: object, binary: memoryview) -> list[InputTensor]:
    """Read the inputs of a request.

    Args:
        declared: The member `inputs`.
        binary: What follows the JSON.

    Raises:
        InvalidRequestError: Says which tensor is wrong and how.
    """
    tensors = []
    for item in objects("inputs", declared):
        tensor, binary = _read_tensor(item, binary)
        tensors.append(tensor)
    if binary:
        message = f"{len(binary)} bytes follow the last tensor; give each its binary_data_size"
        raise InvalidRequestError(message)
    return tensors


def objects(name: str, value: object) -> list[dict[str, Any]]:
    """Take a member that is a list of objects.

    Raises:
        InvalidRequestError: It is not.
    """
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        message = f"{name} is not a list of objects"
        raise InvalidRequestError(message)
    return value


def parameters_of(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Take the member `parameters` of an object.

    Raises:
        InvalidRequestError: It is no object.
    """
    parameters = item.get("parameters", {})
    if not isinstance(parameters, dict):
        message = f"{where}.parameters is not an object"
        raise InvalidRequestError(message)
    return parameters


def encode_response(head: dict[str, Any], outputs: Sequence[OutputTensor]) -> tuple[bytes, int | None]:
    """Encode a response.

    Args:
        head: Members beside `outputs`.
        outputs: Tensors.

    Returns:
        The body, and the length of its JSON if binary data follows.
    """
    told, blobs = [], []
    for output in outputs:
        member: dict[str, Any] = {"name": output.name, "shape": output.shape, "datatype": _datatype(output)}
        if output.binary:
            blob = _binary(output)
            member["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            member["data"] = _json_data(output)
        told.append(member)
    text = orjson.dumps({**head, "outputs": told}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((text, *blobs)), len(text) if blobs else None


def _read_tensor(item: dict[str, Any], binary: memoryview) -> tuple[InputTensor, memoryview]:
    name, datatype = item.get("name"), item.get("datatype")
    if not isinstance(name, str) or not isinstance(datatype, str):
        message = "an input has no name or no datatype"
        raise InvalidRequestError(message)
    where = f"input {name[:40]!r}"
    shape = _shape(item.get("shape"), where)
    count = math.prod(shape)
    parameters = parameters_of(item, where)
    unknown = sorted(set(parameters) - {"binary_data_size"})
    if unknown:
        message = f"{where} has the parameter {unknown[0][:40]!r}, which is not supported"
        raise InvalidRequestError(message)
    size = parameters.get("binary_data_size")
    if size is None:
        return _from_json(name, datatype, shape, item.get("data"), where), binary
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(binary):
        message = f"{where} has a binary_data_size that the body does not have"
        raise InvalidRequestError(message)
    blob = binary[:size]
    if datatype == "BYTES":
        tensor = InputTensor(name, datatype, shape, elements=_split_elements(blob, count, where))
    else:
        dtype = _dtype(datatype, where)
        if size != count * dtype.itemsize:
            message = f"{where} has {size} bytes, its shape and datatype need {count * dtype.itemsize}"
            raise InvalidRequestError(message)
        tensor = InputTensor(name, datatype, shape, numbers=np.frombuffer(blob, dtype))
    return tensor, binary[size:]


def _shape(value: object, where: str) -> tuple[int, ...]:
    fits = (
        isinstance(value, list)
        and 1 <= len(value) <= MAX_DIMENSIONS
        and all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < MAX_DIMENSION for side in value)
    )
    if not fits or not isinstance(value, list):
        message = f"{where} needs a shape of 1 to {MAX_DIMENSIONS} positive whole numbers"
        raise InvalidRequestError(message)
    return tuple(value)


def _dtype(datatype: str, where: str) -> np.dtype[Any]:
    if datatype not in DTYPES:
        message = f"{where} has the datatype {datatype[:20]!r}; supported are BYTES, {', '.join(DTYPES)}"
        raise InvalidRequestError(message)
    return DTYPES[datatype]


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: object, where: str) -> InputTensor:
    values = _flattened(data, where)
    if len(values) != math.prod(shape):
        message = f"{where} has {len(values)} elements, its shape needs {math.prod(shape)}"
        raise InvalidRequestError(message)
    types = set(map(type, values))
    if datatype == "BYTES":
        if types != {str}:
            message = f"{where} of BYTES needs base64 text in JSON"
            raise InvalidRequestError(message)
        return InputTensor(name, datatype, shape, elements=tuple(_from_base64(value, where) for value in values))
    dtype = _dtype(datatype, where)
    if not types <= ({int} if dtype.kind == "u" else {int, float}):
        message = f"{where} has elements that are no {datatype}"
        raise InvalidRequestError(message)
    try:
        return InputTensor(name, datatype, shape, numbers=np.array(values, dtype=dtype))
    except OverflowError as error:
        message = f"{where} has elements outside the range of {datatype}"
        raise InvalidRequestError(message) from error


def _flattened(data: object, where: str) -> list[Any]:
    """Flatten nested lists; any row-major nesting of the right size is as good as another."""
    if not isinstance(data, list):
        message = f"{where} has neither data nor binary_data_size"
        raise InvalidRequestError(message)
    for _ in range(MAX_DIMENSIONS):
        if set(map(type, data)) != {list}:
            break
        data = list(chain.from_iterable(data))
    return data


def _from_base64(value: str, where: str) -> bytes:
    try:
        return pybase64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"{where} is not valid base64"
        raise InvalidRequestError(message) from error


def _split_elements(blob: memoryview, count: int, where: str) -> tuple[bytes, ...]:
    elements: list[bytes] = []
    while blob and len(elements) < count:
        if len(blob) < LENGTH_BYTES:
            break
        (length,) = struct.unpack_from("<I", blob)
        if length > len(blob) - LENGTH_BYTES:
            break
        elements.append(bytes(blob[LENGTH_BYTES : LENGTH_BYTES + length]))
        blob = blob[LENGTH_BYTES + length :]
    if blob or len(elements) != count:
        message = f"{where} has not the {count} elements of its shape, each after its length in 4 bytes"
        raise InvalidRequestError(message)
    return tuple(elements)


def _datatype(output: OutputTensor) -> str:
    return "BYTES" if isinstance(output.data, tuple) else "FP32"


def _binary(output: OutputTensor) -> bytes:
    if isinstance(output.data, tuple):
        return b"".join(chain.from_iterable((struct.pack("<I", len(item)), item) for item in output.data))
    return np.ascontiguousarray(output.data, dtype="<f4").tobytes()


def _json_data(output: OutputTensor) -> object:
    if isinstance(output.data, tuple):
        return [pybase64.b64encode_as_string(item) for item in output.data]
    return np.ascontiguousarray(output.data, dtype=np.float32).ravel()
