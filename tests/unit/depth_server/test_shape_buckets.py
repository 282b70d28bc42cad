import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.model.variants import PATCH_SIZE
from depth_server.preprocess import Size, input_size
from depth_server.shape_buckets import MAX_ASPECT_DISTORTION, aspect_distortion, bucket_table, nearest_bucket

PATCHES = st.integers(17, 73).map(lambda count: count * PATCH_SIZE)


@given(lower=PATCHES, extra=st.integers(0, 40), width=st.integers(1, 16_384), height=st.integers(1, 16_384))
def test_every_image_has_a_bucket_near_its_aspect_ratio(lower: int, extra: int, width: int, height: int) -> None:
    longest = min(max(lower + extra * PATCH_SIZE, 518), 1022)
    lower = min(lower, longest)
    source = Size(height, width)
    bucket = nearest_bucket(source, lower, longest)
    assert bucket.height % PATCH_SIZE == bucket.width % PATCH_SIZE == 0
    assert max(bucket.height, bucket.width) <= longest
    if max(width / height, height / width) <= longest / PATCH_SIZE:
        assert aspect_distortion(source, bucket) <= MAX_ASPECT_DISTORTION + 1e-9


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1000, 1000, Size(518, 518)),
        (640, 480, Size(518, 686)),
        (480, 640, Size(686, 518)),
        (1920, 1080, Size(518, 924)),
        (3000, 2000, Size(518, 784)),
    ],
)
def test_images_of_cameras_keep_upstreams_size(width: int, height: int, expected: Size) -> None:
    source = Size(height, width)
    assert nearest_bucket(source, 518, 1022) == expected == input_size(source, 518, 1022)


def test_the_table_is_small_where_images_are_and_mirrors_portrait() -> None:
    table = bucket_table(518, 1022)
    assert len({size for size in table if size.height <= size.width <= 2 * size.height}) == 16
    assert {Size(size.width, size.height) for size in table} == set(table)
    assert len(table) == len(set(table))


def test_resolution_is_given_up_only_for_the_cap() -> None:
    for size in bucket_table(518, 1022):
        short, long = sorted((size.height, size.width))
        if long <= 8 * short:
            assert short == 518 or long >= 0.9 * 1022
        assert short * long <= 518 * 1022
