import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.preprocess import Size, input_size, preprocess
from tests.unit.depth_server.reference_transform import upstream_preprocess, upstream_size

SIDES = st.integers(1, 20_000)
BOUNDS = st.integers(9, 73).map(lambda patches: 14 * patches)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Size(1000, 1000), Size(518, 518)),
        (Size(480, 640), Size(518, 686)),
        (Size(640, 480), Size(686, 518)),
        # 777 / 14 = 55.5 is a tie: half to even goes up here.
        (Size(400, 600), Size(518, 784)),
        (Size(1080, 1920), Size(518, 924)),
        (Size(427, 640), Size(518, 770)),
        (Size(1, 1), Size(518, 518)),
    ],
)
def test_common_sizes(source: Size, expected: Size) -> None:
    assert input_size(source, 518, 1022) == expected


@given(SIDES, SIDES, BOUNDS)
def test_size_is_upstreams_where_the_cap_allows(height: int, width: int, bound: int) -> None:
    upstream = upstream_size(width, height, bound)
    size = input_size(Size(height, width), bound, 1022)
    if max(upstream) <= 1022:
        assert (size.width, size.height) == upstream


@given(SIDES, SIDES, BOUNDS)
def test_size_is_bounded_and_in_whole_patches(height: int, width: int, bound: int) -> None:
    size = input_size(Size(height, width), bound, 1022)
    assert size.height % 14 == size.width % 14 == 0
    assert min(size.height, size.width) >= 14
    assert max(size.height, size.width) <= 1022


@given(SIDES, SIDES, BOUNDS)
def test_capped_size_fits_the_long_side(height: int, width: int, bound: int) -> None:
    upstream = upstream_size(width, height, bound)
    size = input_size(Size(height, width), bound, 1022)
    if max(upstream) > 1022:
        assert max(size.height, size.width) == 1022
        exact = 1022 * min(height, width) / max(height, width)
        assert abs(min(size.height, size.width) - exact) <= 14


def test_panorama_is_capped() -> None:
    assert input_size(Size(500, 4000), 518, 1022) == Size(126, 1022)
    assert input_size(Size(500, 4000), 518, 4144) == Size(518, 4144)


@pytest.mark.parametrize(
    "shape", [(427, 640), (640, 427), (100, 100), (37, 211), (1200, 1600), (518, 518), (1, 1)], ids=str
)
def test_pixels_equal_upstream(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    size = input_size(Size(*shape), 252, 4144)
    actual, expected = preprocess(image, size), upstream_preprocess(image, 252)
    assert actual.dtype == np.float32
    assert actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, expected)


def test_pixels_of_a_view_equal_those_of_a_copy() -> None:
    image = np.random.default_rng(4).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    turned = image.transpose(1, 0, 2)[::-1]
    np.testing.assert_array_equal(preprocess(turned, Size(140, 126)), preprocess(turned.copy(), Size(140, 126)))


def test_work_units_weigh_pixels() -> None:
    assert Size(518, 518).work_units == 1
    assert Size(1036, 1036).work_units == 4
