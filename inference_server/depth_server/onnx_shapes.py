"""Makes fixed dimensions of an ONNX model's inputs and outputs free; pure, on the file's bytes.

onnxruntime refuses an image of another size than the one a model was exported with, even where the graph is fully
convolutional, and the `onnx` package that could change it is a build tool of 20 MB. Protocol Buffers' wire format is
small, and only a handful of its fields matter here (onnx/onnx.proto: ModelProto, GraphProto, ValueInfoProto,
TypeProto, TensorShapeProto).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

VARINT: Final = 0
"""Wire type of integers."""

LENGTH_DELIMITED: Final = 2
"""Wire type of strings and messages."""

FIXED_WIDTHS: Final = {1: 8, 5: 4}
"""Bytes of the wire types that have a fixed width."""

MAX_VARINT_BYTES: Final = 10
"""A 64-bit integer in groups of 7 bits."""

MODEL_GRAPH: Final = 7
"""Number of `ModelProto.graph`."""

GRAPH_INPUT: Final = 11
"""Number of `GraphProto.input`."""

GRAPH_OUTPUT: Final = 12
"""Number of `GraphProto.output`."""

VALUE_NAME: Final = 1
"""Number of `ValueInfoProto.name`."""

VALUE_TYPE: Final = 2
"""Number of `ValueInfoProto.type`."""

TYPE_TENSOR: Final = 1
"""Number of `TypeProto.tensor_type`."""

TENSOR_SHAPE: Final = 2
"""Number of `TypeProto.Tensor.shape`."""

SHAPE_DIMENSION: Final = 1
"""Number of `TensorShapeProto.dim`."""

DIMENSION_PARAM: Final = 2
"""Number of `TensorShapeProto.Dimension.dim_param`."""

FreeDimensions = Mapping[str, Mapping[int, str]]
"""For each value's name, the index of a dimension and the symbol that takes its place."""

Field = tuple[int, int, bytes, bytes]
"""Number, wire type, payload and the whole field as it stands in the file."""


def free_dimensions(model: bytes, free: FreeDimensions) -> bytes:
    """Give dimensions of a model's inputs and outputs a symbol instead of a number.

    Args:
        model: An ONNX file.
        free: What to change; names that the graph does not have are ignored.

    Returns:
        The changed file.

    Raises:
        ValueError: Not an ONNX file.
    """

    def change_value(value: bytes) -> bytes:
        name = next((payload for number, _, payload, _ in _fields(value) if number == VALUE_NAME), b"")
        symbols = free.get(name.decode("utf-8", "replace"))
        if not symbols:
            return value
        shape = _at(SHAPE_DIMENSION, _numbered(symbols))
        return _at(VALUE_TYPE, _at(TYPE_TENSOR, _at(TENSOR_SHAPE, shape)))(value)

    def change_graph(graph: bytes) -> bytes:
        return _at(GRAPH_OUTPUT, change_value)(_at(GRAPH_INPUT, change_value)(graph))

    return _at(MODEL_GRAPH, change_graph)(model)


def _numbered(symbols: Mapping[int, str]) -> Callable[[bytes], bytes]:
    """Make a change of successive dimensions, which the wire tells apart only by their order."""
    count = 0

    def change(dimension: bytes) -> bytes:
        nonlocal count
        symbol = symbols.get(count)
        count += 1
        return dimension if symbol is None else _delimited(DIMENSION_PARAM, symbol.encode())

    return change


def _at(number: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Make a change of a message out of a change of its sub-messages with one field number."""

    def change_message(message: bytes) -> bytes:
        return b"".join(
            _delimited(number, change(payload)) if found == number and wire_type == LENGTH_DELIMITED else raw
            for found, wire_type, payload, raw in _fields(message)
        )

    return change_message


def _fields(message: bytes) -> Iterator[Field]:
    position = 0
    while position < len(message):
        begin = position
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == VARINT:
            _, end = _varint(message, position)
        elif wire_type == LENGTH_DELIMITED:
            length, position = _varint(message, position)
            end = position + length
        elif wire_type in FIXED_WIDTHS:
            end = position + FIXED_WIDTHS[wire_type]
        else:
            message_text = f"not an ONNX file: wire type {wire_type} at byte {begin}"
            raise ValueError(message_text)
        if end > len(message):
            message_text = f"not an ONNX file: the field at byte {begin} ends after its message"
            raise ValueError(message_text)
        yield tag >> 3, wire_type, message[position:end], message[begin:end]
        position = end


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(message[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    message_text = f"not an ONNX file: no integer at byte {position}"
    raise ValueError(message_text)


def _delimited(number: int, payload: bytes) -> bytes:
    return _encode_varint(number << 3 | LENGTH_DELIMITED) + _encode_varint(len(payload)) + payload


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
