"""The PNG writer: whatever it writes, others read back."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from depth_server.png16 import encode_png16

pictures = hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


def read_by_pillow(data: bytes) -> NDArray[np.uint16]:
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "I;16"
        return np.asarray(image)


@given(pictures)
def test_opencv_and_pillow_read_what_was_written(levels: NDArray[np.uint16]) -> None:
    data = encode_png16(levels)
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert by_opencv is not None
    assert by_opencv.dtype == np.uint16
    np.testing.assert_array_equal(by_opencv, levels)
    np.testing.assert_array_equal(read_by_pillow(data), levels)


@given(pictures, st.booleans())
def test_views_are_as_good_as_arrays(levels: NDArray[np.uint16], transposed: bool) -> None:
    view = levels.T if transposed else levels[::-1, ::-1]
    np.testing.assert_array_equal(read_by_pillow(encode_png16(view)), view)


def test_smooth_depth_is_no_larger_than_opencv_makes_it() -> None:
    rows, columns = np.mgrid[:480, :640]
    levels = (30000 + 20000 * np.sin(rows / 97) * np.cos(columns / 131)).astype(np.uint16)
    _, by_opencv = cv2.imencode(".png", levels)
    assert len(encode_png16(levels)) <= 1.05 * len(by_opencv)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 1), np.uint16), np.zeros((0, 2), np.uint16), np.zeros(4, np.uint16)],
)
def test_anything_else_is_refused(wrong: NDArray[np.uint16]) -> None:
    with pytest.raises(ValueError, match="expected"):
        encode_png16(wrong)
