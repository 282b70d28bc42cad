"""The packaged detector on a photograph, its decoding, and models that are none."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from depth_server.access_settings import FaceBlurStyle
from depth_server.centerface import (
    MAX_OVERLAP,
    CenterFace,
    decode_boxes,
    pad,
    read_packaged_model,
    shrink,
    suppress_overlaps,
)
from depth_server.faces import FaceBoxes, blur_boxes, dilate_boxes
from depth_server.onnx_shapes import free_dimensions

PHOTO = Path(__file__).parents[2] / "data" / "face.jpg"
FACE = (111, 58, 200, 178)
"""Left, top, right, bottom of the face in the photograph, seen by eye."""


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    image = cv2.imread(str(PHOTO))
    assert image is not None
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector() -> CenterFace:
    return CenterFace(read_packaged_model(), max_side=640, threshold=0.2)


def overlap(first: FaceBoxes, second: FaceBoxes) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / (float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - shared)


def test_the_face_of_a_photograph_is_found(detector: CenterFace, photo: NDArray[np.uint8]) -> None:
    found = detector.detect(photo)
    assert len(found) == 1
    assert overlap(found[0], np.array(FACE, dtype=np.float32)) > 0.7


@pytest.mark.parametrize("style", [FaceBlurStyle.PIXELATE, FaceBlurStyle.SOLID])
def test_no_face_is_left_and_no_detail_of_it(
    detector: CenterFace, photo: NDArray[np.uint8], style: FaceBlurStyle
) -> None:
    boxes = dilate_boxes(detector.detect(photo), 1.4, *photo.shape[:2])
    blurred = blur_boxes(photo, boxes, style)
    assert len(detector.detect(blurred)) == 0
    left, top, right, bottom = FACE
    before, after = (cv2.Laplacian(image[top:bottom, left:right], cv2.CV_64F).var() for image in (photo, blurred))
    assert after < 0.01 * before


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 2.0, 5.0])
def test_the_box_scales_with_the_photograph(detector: CenterFace, photo: NDArray[np.uint8], scale: float) -> None:
    image = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    found = detector.detect(image)
    assert len(found) == 1
    assert overlap(found[0] / scale, np.array(FACE, dtype=np.float32)) > 0.6


def test_several_faces_of_several_sizes_are_found(detector: CenterFace, photo: NDArray[np.uint8]) -> None:
    small = cv2.resize(photo, (100, 100), interpolation=cv2.INTER_AREA)
    canvas = np.zeros((320, 620, 3), dtype=np.uint8)
    canvas[:300, :300] = photo
    canvas[100:200, 400:500] = small
    assert len(detector.detect(canvas)) == 2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (31, 33), (640, 640), (1200, 37)])
def test_images_of_any_size_are_looked_at(detector: CenterFace, height: int, width: int) -> None:
    assert len(detector.detect(np.zeros((height, width, 3), dtype=np.uint8))) == 0


def test_threads_do_not_disturb_each_other(detector: CenterFace, photo: NDArray[np.uint8]) -> None:
    images = [np.asarray(cv2.resize(photo, (side, side)), dtype=np.uint8) for side in (96, 160, 224, 300)] * 3
    expected = [detector.detect(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(detector.detect, images))
    for first, second in zip(expected, found, strict=True):
        np.testing.assert_array_equal(first, second)


@given(st.integers(1, 900), st.integers(1, 900), st.integers(64, 640))
@settings(max_examples=30)
def test_what_the_network_sees_is_small_and_of_whole_multiples(height: int, width: int, side: int) -> None:
    shrunk, scale = shrink(np.zeros((height, width, 3), dtype=np.uint8), side)
    assert max(shrunk.shape[:2]) <= side
    assert 0 < scale <= 1
    padded = pad(shrunk)
    assert padded.shape[0] % 32 == padded.shape[1] % 32 == 0
    assert padded.shape[0] - shrunk.shape[0] < 32


def overlap_below(first: FaceBoxes, second: FaceBoxes) -> bool:
    """Whether two boxes are different faces; boxes without area have no union to divide by."""
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = np.prod(np.maximum(sides, 0))
    union = np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - shared
    return bool(shared < MAX_OVERLAP * union)


corner = st.integers(0, 60)


@given(st.lists(st.tuples(corner, corner, st.integers(0, 40), st.integers(0, 40), st.integers(0, 1000)), max_size=30))
def test_overlaps_are_suppressed_as_the_plain_loop_does(rows: list[tuple[int, int, int, int, int]]) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in rows], dtype=np.float32).reshape(-1, 4)
    scores = np.array([score for *_, score in rows], dtype=np.float32)
    kept: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: -scores[index]):
        if all(overlap_below(boxes[index], boxes[other]) for other in kept):
            kept.append(index)
    assert suppress_overlaps(boxes, scores, MAX_OVERLAP).tolist() == kept


def maps(**values: float) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    heat, size, offset = (np.zeros(shape, dtype=np.float32) for shape in ((8, 8), (2, 8, 8), (2, 8, 8)))
    heat[2, 3] = values.get("heat", 0.9)
    size[:, 2, 3] = values.get("size", 1.0)
    return heat, size, offset


def test_a_cell_becomes_a_box_around_its_centre() -> None:
    boxes, scores = decode_boxes(*maps(size=float(np.log(4))), 0.2)
    np.testing.assert_allclose(boxes, [[14 - 8, 10 - 8, 14 + 8, 10 + 8]], rtol=1e-5)
    np.testing.assert_allclose(scores, [0.9])


@pytest.mark.parametrize(
    "values", [{"heat": float("nan")}, {"heat": float("inf")}, {"size": float("nan")}, {"size": 1e4}]
)
def test_maps_that_are_not_finite_are_an_error_and_not_no_face(values: dict[str, float]) -> None:
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="NaN or infinite"):
        decode_boxes(*maps(**values), 0.2)


@pytest.mark.parametrize("damage", ["empty", "noise", "half", "another-network"])
def test_a_file_that_is_no_such_model_is_refused(damage: str) -> None:
    model = read_packaged_model()
    if damage == "another-network":
        one = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 32, 32])
        two = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 32, 32])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [one], [two])
        opset = [onnx.helper.make_opsetid("", 17)]
        data = onnx.helper.make_model(graph, ir_version=8, opset_imports=opset).SerializeToString()
    else:
        noise = np.random.default_rng(0).bytes(1000)
        data = {"empty": b"", "noise": noise, "half": model[: len(model) // 2]}[damage]
    with pytest.raises(ValueError, match=re.compile("onnxruntime cannot load|not CenterFace")):
        CenterFace(data, max_side=640, threshold=0.2)


def test_dimensions_become_free_and_nothing_else_changes() -> None:
    model = read_packaged_model()
    before = onnx.load_from_string(model)
    name = next(value.name for value in before.graph.input if value.name == "input.1")
    after = onnx.load_from_string(free_dimensions(model, {name: {2: "height", 3: "width"}}))
    changed = next(value for value in after.graph.input if value.name == name).type.tensor_type.shape.dim
    assert [dimension.dim_param or dimension.dim_value for dimension in changed] == [10, 3, "height", "width"]
    changed[2].dim_value = changed[3].dim_value = 32
    assert after == before


@given(st.binary(max_size=200))
def test_bytes_that_are_no_model_are_left_or_refused(data: bytes) -> None:
    try:
        free_dimensions(data, {"x": {0: "n"}})
    except ValueError as error:
        assert "not an ONNX file" in str(error)  # noqa: PT017 either is right
