"""What becomes of faces, and of images that could not be looked at."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from depth_server.access_settings import FaceBlurStyle
from depth_server.errors import FaceDetectionError, OverloadedError
from depth_server.faces import PIXELATED_CELLS, SOLID_LEVEL, FaceBlur, FaceBoxes, blur_boxes, dilate_boxes, pixelate

PATIENCE = 10.0
NO_BOXES = np.empty((0, 4), dtype=np.float32)
STYLES = [FaceBlurStyle.PIXELATE, FaceBlurStyle.SOLID]


def boxes(*rows: tuple[float, float, float, float]) -> FaceBoxes:
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


coordinate = st.floats(-2000, 2000, width=32)
box = st.tuples(coordinate, coordinate, coordinate, coordinate)


@given(st.lists(box, max_size=20), st.floats(1, 4), st.integers(1, 500), st.integers(1, 500))
def test_dilated_boxes_lie_in_the_image_and_cover_the_originals(
    rows: list[tuple[float, float, float, float]], factor: float, height: int, width: int
) -> None:
    rows = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in rows]
    dilated = dilate_boxes(boxes(*rows), factor, height, width)
    assert (dilated >= 0).all()
    assert (dilated[:, [0, 2]] <= width).all()
    assert (dilated[:, [1, 3]] <= height).all()
    assert (dilated[:, 2:] > dilated[:, :2]).all()
    for left, top, right, bottom in rows:
        x, y = (left + right) / 2, (top + bottom) / 2
        if right - left > 1 and bottom - top > 1 and 0 <= x < width and 0 <= y < height:
            corners = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
            assert any(
                a - 0.01 <= corners[0] and b - 0.01 <= corners[1] and c + 0.01 >= corners[2] and d + 0.01 >= corners[3]
                for a, b, c, d in dilated.tolist()
            )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_box_that_is_nowhere_is_an_error_and_not_overlooked(value: float) -> None:
    with pytest.raises(ValueError, match="no finite boxes"):
        dilate_boxes(boxes((1, 2, 3, value)), 1.4, 100, 100)


def test_boxes_of_another_shape_are_an_error() -> None:
    with pytest.raises(ValueError, match="four corners"):
        dilate_boxes(np.zeros((3, 5), dtype=np.float32), 1.4, 100, 100)


@pytest.mark.parametrize("style", STYLES)
def test_only_the_box_changes_and_the_original_stays(style: FaceBlurStyle) -> None:
    image = noise(80, 100)
    original = image.copy()
    blurred = blur_boxes(image, np.array([[20, 10, 60, 70]]), style)
    assert np.array_equal(image, original)
    outside = np.ones((80, 100), dtype=bool)
    outside[10:70, 20:60] = False
    assert np.array_equal(blurred[outside], image[outside])
    assert not np.array_equal(blurred[~outside], image[~outside])


def test_solid_leaves_nothing() -> None:
    blurred = blur_boxes(noise(80, 100), np.array([[20, 10, 60, 70]]), FaceBlurStyle.SOLID)
    assert (blurred[10:70, 20:60] == SOLID_LEVEL).all()


def test_different_faces_with_the_same_averages_become_the_same_pixels() -> None:
    """Nothing but the averages of a few cells survives, so nothing can bring a face back."""
    side = 10
    face = noise(PIXELATED_CELLS * side, PIXELATED_CELLS * side)
    other = face.copy()
    random = np.random.default_rng(1)
    for row in range(0, len(face), side):
        for column in range(0, len(face), side):
            cell = face[row : row + side, column : column + side].reshape(-1, 3)
            other[row : row + side, column : column + side] = random.permutation(cell).reshape(side, side, 3)
    assert not np.array_equal(face, other)
    assert np.array_equal(pixelate(face), pixelate(other))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (3, 2), (7, 200), (301, 257)])
def test_a_region_of_any_size_keeps_no_detail(height: int, width: int) -> None:
    region = np.indices((height, width)).sum(axis=0, dtype=np.uint8)[:, :, np.newaxis].repeat(3, axis=2) % 2 * 255
    blurred = pixelate(region.astype(np.uint8))
    assert blurred.shape == region.shape
    if max(height, width) >= 40:
        assert cv2.Laplacian(blurred, cv2.CV_64F).var() < 0.02 * cv2.Laplacian(region, cv2.CV_64F).var()


@pytest.mark.parametrize("style", STYLES)
def test_where_boxes_overlap_nothing_of_either_comes_back(style: FaceBlurStyle) -> None:
    image = noise(100, 100)
    blurred = blur_boxes(image, np.array([[10, 10, 60, 60], [30, 30, 90, 90]]), style)
    inside = np.zeros((100, 100), dtype=bool)
    inside[10:60, 10:60] = inside[30:90, 30:90] = True
    assert (blurred == image).all(axis=2)[inside].mean() < 0.01


class Detector:
    def __init__(self, detect: Callable[[NDArray[np.uint8]], FaceBoxes]) -> None:
        self._detect = detect

    def detect(self, image: NDArray[np.uint8]) -> FaceBoxes:
        return self._detect(image)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def face_blur(
    threads: ThreadPoolExecutor,
    detect: Callable[[NDArray[np.uint8]], FaceBoxes],
    *,
    timeout: float = PATIENCE,
    max_pending: int = 8,
    observed: list[int] | None = None,
) -> FaceBlur:
    def observe(_: float, faces: int) -> None:
        if observed is not None:
            observed.append(faces)

    return FaceBlur(
        Detector(detect),
        style=FaceBlurStyle.SOLID,
        dilation=1,
        threads=threads,
        max_pending=max_pending,
        timeout_seconds=timeout,
        observe=observe,
    )


async def test_faces_are_blurred_counted_and_observed(threads: ThreadPoolExecutor) -> None:
    observed: list[int] = []
    blur = face_blur(threads, lambda _: boxes((1, 1, 5, 5), (20, 20, 30, 30)), observed=observed)
    blurred = await blur.apply(noise(40, 40))
    assert blurred.faces == 2
    assert (blurred.image[21:29, 21:29] == SOLID_LEVEL).all()
    assert observed == [2]


async def test_an_image_without_faces_passes_as_it_is(threads: ThreadPoolExecutor) -> None:
    image = noise(40, 40)
    blurred = await face_blur(threads, lambda _: NO_BOXES).apply(image)
    assert blurred.faces == 0
    assert blurred.image is image


@pytest.mark.parametrize("failure", [RuntimeError("12.5 33.25"), ValueError(), MemoryError(), KeyError("x")])
async def test_a_detector_that_fails_refuses_the_image(
    threads: ThreadPoolExecutor, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def detect(_: NDArray[np.uint8]) -> FaceBoxes:
        raise failure

    blur = face_blur(threads, detect)
    with caplog.at_level(logging.DEBUG), pytest.raises(FaceDetectionError, match="no image is used unseen"):
        await blur.apply(noise(40, 40))
    assert "the image is refused" in caplog.text
    await settled(blur)


async def test_a_detector_that_answers_nonsense_refuses_the_image(threads: ThreadPoolExecutor) -> None:
    for nonsense in (np.full((1, 4), np.nan, dtype=np.float32), np.zeros((2, 3), dtype=np.float32), None):
        with pytest.raises(FaceDetectionError):
            await face_blur(threads, lambda _, given=nonsense: given).apply(noise(40, 40))  # type: ignore[misc]  # nonsense


async def test_a_detector_that_hangs_refuses_the_image_and_still_counts(threads: ThreadPoolExecutor) -> None:
    release = threading.Event()

    def detect(_: NDArray[np.uint8]) -> FaceBoxes:
        release.wait(PATIENCE)
        return NO_BOXES

    blur = face_blur(threads, detect, timeout=0.05, max_pending=3)
    for _ in range(3):
        with pytest.raises(FaceDetectionError, match="within"):
            await blur.apply(noise(40, 40))
    assert blur.pending >= 2, "a thread that hangs still has its image"
    release.set()
    await settled(blur)


async def test_images_that_wait_are_bounded(threads: ThreadPoolExecutor) -> None:
    release = threading.Event()

    def detect(_: NDArray[np.uint8]) -> FaceBoxes:
        release.wait(PATIENCE)
        return NO_BOXES

    blur = face_blur(threads, detect, max_pending=4)
    waiting = [asyncio.create_task(blur.apply(noise(4, 4))) for _ in range(4)]
    while blur.pending < 4:  # noqa: ASYNC110 the tasks have to start
        await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await blur.apply(noise(4, 4))
    release.set()
    await asyncio.gather(*waiting)
    await settled(blur)
    assert (await blur.apply(noise(4, 4))).faces == 0


async def test_where_a_face_is_is_never_logged(threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await face_blur(threads, lambda _: boxes((1, 1, 5, 5))).apply(noise(40, 40))
    assert caplog.text == ""


async def settled(blur: FaceBlur) -> None:
    async with asyncio.timeout(PATIENCE):
        while blur.pending:  # noqa: ASYNC110 what is waited for ends in another thread
            await asyncio.sleep(0.005)
