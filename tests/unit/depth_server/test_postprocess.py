import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from depth_server.errors import NonFiniteDepthError
from depth_server.postprocess import encode_png, quantise_depth, resize_depth
from depth_server.preprocess import Size

SIDE = st.integers(1, 70)
FINITE = st.floats(min_value=0, max_value=float(np.finfo(np.float32).max), width=32)


@given(SIDE, SIDE, SIDE, SIDE, st.booleans())
def test_resize_equals_torch(height: int, width: int, to_height: int, to_width: int, align_corners: bool) -> None:
    depth = np.random.default_rng(height * width).random((height, width), dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(depth)[None, None], (to_height, to_width), mode="bilinear", align_corners=align_corners
    )
    actual = resize_depth(depth, Size(to_height, to_width), align_corners=align_corners)
    np.testing.assert_allclose(actual, expected[0, 0].numpy(), atol=2e-5)


def test_resize_leaves_the_model_output_untouched() -> None:
    depth = np.arange(12, dtype=np.float32).reshape(3, 4)
    before = depth.copy()
    resize_depth(depth, Size(7, 9), align_corners=True)
    np.testing.assert_array_equal(depth, before)


def recovered(levels: NDArray[np.uint16], minimum: float, maximum: float) -> NDArray[np.float64]:
    return minimum + levels / 65535 * (maximum - minimum)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=FINITE))
def test_floats_are_recovered_to_half_a_level(depth: NDArray[np.float32]) -> None:
    quantised = quantise_depth(depth)
    span = quantised.maximum - quantised.minimum
    assert quantised.minimum == depth.min()
    assert quantised.maximum == depth.max()
    if span > 0:
        assert quantised.levels.min() == 0
        assert quantised.levels.max() == 65535
    error = np.abs(recovered(quantised.levels, quantised.minimum, quantised.maximum) - depth.astype(np.float64))
    assert error.max() <= span / 65535 * 0.5001 + 1e-300


def test_constant_depth_is_all_zero_and_recovers() -> None:
    quantised = quantise_depth(np.full((4, 5), 2.5, dtype=np.float32))
    assert not quantised.levels.any()
    assert (recovered(quantised.levels, quantised.minimum, quantised.maximum) == 2.5).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_depth_is_an_error(value: float) -> None:
    depth = np.ones((4, 5), dtype=np.float32)
    depth[2, 3] = value
    with pytest.raises(NonFiniteDepthError, match="NaN or infinite"):
        quantise_depth(depth)


def test_png_is_lossless_16_bit_grey() -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (31, 47), dtype=np.uint16)
    decoded = cv2.imdecode(np.frombuffer(encode_png(levels), np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, levels)
