"""Tensors of the inference protocol, as JSON and as binary data."""

import struct
from typing import Any

import numpy as np
import orjson
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from depth_server.errors import InvalidRequestError, RequestError
from depth_server.inference_request import InferenceRequest, parse_inference
from depth_server.pipeline import DecodedImage, EncodedImage, NetworkInput
from depth_server.tensors import MAX_JSON_BYTES, OutputTensor, encode_response, read_tensors, split_body

NOTHING = memoryview(b"")


def parse(declared: object, binary: bytes = b"", max_images: int = 4) -> InferenceRequest:
    return parse_inference(declared, memoryview(binary), max_images=max_images, max_long_side=1022)  # type: ignore[arg-type]  # wrong on purpose


def tensor(name: str, datatype: str, shape: list[Any], **members: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, **members}]}


def binary_bytes(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4))
def test_encoded_images_in_both_forms(elements: list[bytes]) -> None:
    text = [pybase64.b64encode_as_string(element) for element in elements]
    by_json = parse(tensor("image", "BYTES", [len(elements)], data=text))
    blob = binary_bytes(*elements)
    declared = tensor("image", "BYTES", [len(elements), 1], parameters={"binary_data_size": len(blob)})
    assert by_json.images == parse(declared, blob).images == tuple(EncodedImage(element) for element in elements)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_pixels_in_both_forms(batch: NDArray[np.uint8]) -> None:
    by_json = parse(tensor("pixels", "UINT8", list(batch.shape), data=batch.tolist()))
    declared = tensor("pixels", "UINT8", list(batch.shape), parameters={"binary_data_size": batch.nbytes})
    by_binary = parse(declared, batch.tobytes())
    for images in (by_json.images, by_binary.images):
        for image, expected in zip(images, batch, strict=True):
            assert isinstance(image, DecodedImage)
            np.testing.assert_array_equal(image.pixels, expected)


def test_network_input_without_a_batch() -> None:
    values = np.random.default_rng(0).standard_normal((3, 14, 28)).astype("<f4")
    declared = tensor("pixel_values", "FP32", [3, 14, 28], parameters={"binary_data_size": values.nbytes})
    (image,) = parse(declared, values.tobytes()).images
    assert isinstance(image, NetworkInput)
    np.testing.assert_array_equal(image.pixel_values, values)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, "inputs is not a list"),
        ({"inputs": []}, "0 inputs"),
        ({"inputs": [1]}, "inputs is not a list of objects"),
        ({"id": 5, "inputs": []}, "id is no text"),
        ({"parameters": {"priority": 1}, "inputs": []}, "'priority' is unknown"),
        ({"parameters": {"binary_data_output": "yes"}, "inputs": []}, "binary_data_output"),
        (tensor("picture", "BYTES", [1], data=[""]), "the input 'picture' is unknown"),
        (tensor("image", "FP32", [1], data=[1]), r"is FP32 \[1\], expected BYTES \[-1\]"),
        (tensor("image", "BYTES", [1], data=["%%%"]), "base64"),
        (tensor("image", "BYTES", [1], data=[1]), "base64"),
        (tensor("image", "BYTES", [5], data=[""] * 5), "5 images, the limit is 4"),
        (tensor("image", "BYTES", [2], data=[""]), "1 elements, its shape needs 2"),
        (tensor("image", "BYTES", [1]), "neither data nor binary_data_size"),
        (tensor("image", "BYTES", [], data=[]), "needs a shape"),
        (tensor("image", "BYTES", [0], data=[]), "needs a shape"),
        (tensor("image", "BYTES", [True], data=[""]), "needs a shape"),
        (tensor("image", "BYTES", [1], data=[""], parameters={"shared_memory_region": "x"}), "shared_memory_region"),
        (tensor("image", "BYTES", [1], parameters={"binary_data_size": 1}), "binary_data_size"),
        (tensor("pixels", "UINT8", [1, 1, 3], data=[0, 1, 256]), "outside the range"),
        (tensor("pixels", "UINT8", [1, 1, 3], data=[0, 1, -1]), "outside the range"),
        (tensor("pixels", "UINT8", [1, 1, 3], data=[0, 1, 2.5]), "no UINT8"),
        (tensor("pixels", "UINT8", [1, 1, 3], data=[0, 1, True]), "no UINT8"),
        (tensor("pixels", "UINT8", [1, 1, 4], data=[0, 0, 0, 0]), "expected UINT8"),
        (tensor("pixels", "INT64", [1, 1, 3], data=[0, 0, 0]), "datatype 'INT64'"),
        (tensor("pixel_values", "FP32", [3, 1, 1], data=[0, 0, 10**400]), "outside the range"),
        (tensor("pixel_values", "FP32", [3, 1, 1], data=[0, 0, 1]), "multiples of 14"),
        ({"outputs": [{"name": "normals"}], "inputs": []}, "the output 'normals' is unknown"),
        ({"outputs": [{"name": "depth"}, {"name": "depth"}], "inputs": []}, "twice"),
        ({"outputs": [{"name": "depth", "parameters": {"classification": 3}}], "inputs": []}, "'classification'"),
    ],
)
def test_refusals(declared: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(declared)


def test_network_input_that_is_not_finite() -> None:
    values = np.full((3, 14, 14), np.nan, dtype="<f4")
    declared = tensor("pixel_values", "FP32", [3, 14, 14], parameters={"binary_data_size": values.nbytes})
    with pytest.raises(InvalidRequestError, match="NaN"):
        parse(declared, values.tobytes())


@pytest.mark.parametrize("length", ["-1", "3000", "x", "", "1e1", "٣"])
def test_wrong_length_of_the_json(length: str) -> None:
    with pytest.raises(InvalidRequestError):
        split_body(b'{"inputs": []}', length)


def test_json_is_bounded() -> None:
    with pytest.raises(InvalidRequestError, match="as binary data"):
        split_body(b" " * (MAX_JSON_BYTES + 1), None)


def test_bytes_that_belong_to_no_tensor() -> None:
    with pytest.raises(InvalidRequestError, match="3 bytes follow"):
        parse(tensor("image", "BYTES", [1], data=[""]), b"abc")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
members = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["image", "pixels", "pixel_values"]) | json_values,
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP32"]) | json_values,
        "shape": st.lists(st.integers(-1, 3), max_size=5) | json_values,
        "data": json_values,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}) | json_values,
    },
)


@given(st.fixed_dictionaries({"inputs": st.lists(members, max_size=2)}), st.binary(max_size=40))
def test_any_request_is_understood_or_refused(declared: dict[str, Any], binary: bytes) -> None:
    try:
        parse(declared, binary)
    except RequestError as error:
        assert len(str(error)) < 300  # noqa: PT017 either outcome is right


@given(st.binary(max_size=60), st.none() | st.text(max_size=5))
def test_any_body_is_understood_or_refused(body: bytes, length: str | None) -> None:
    try:
        declared, binary = split_body(body, length)
        read_tensors(declared.get("inputs"), binary)
    except RequestError:
        pass


@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_response_tells_where_each_tensor_is(binary: list[bool]) -> None:
    depth = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    outputs = [
        OutputTensor("depth", (1, 2, 3), depth, binary[0]),
        OutputTensor("depth_png", (2,), (b"ab", b""), binary[1]),
        OutputTensor("minimum", (1,), np.zeros(1, np.float32), binary[2]),
    ]
    body, length = encode_response({"model_name": "m"}, outputs)
    assert (length is None) == (not any(binary))
    head = orjson.loads(body[:length])
    rest = body[length:] if length is not None else b""
    blobs = {}
    for output in head["outputs"]:
        if "parameters" in output:
            size = output["parameters"]["binary_data_size"]
            blobs[output["name"]], rest = rest[:size], rest[size:]
    assert rest == b""
    told = {output["name"]: output for output in head["outputs"]}
    assert blobs["depth"] == depth.tobytes() if binary[0] else told["depth"]["data"] == [0, 1, 2, 3, 4, 5]
    assert blobs["depth_png"] == binary_bytes(b"ab", b"") if binary[1] else told["depth_png"]["data"] == ["YWI=", ""]
