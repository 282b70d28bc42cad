"""Sizes of the network's input that images are gathered into, so that batches can form; pure.

Aspect ratios from 1 to 2.5 have about 111 sizes by upstream's rule. Batches of one size only would hardly ever form, so
an image is resized to the nearest of a few sizes instead; its aspect ratio changes by at most 3 %.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Final

from depth_server.model.variants import PATCH_SIZE
from depth_server.preprocess import Size, input_size

MAX_ASPECT_DISTORTION: Final = 0.03
"""How far the aspect ratio of a bucket may be from that of an image in it."""

COMMON_ASPECTS: Final = (Fraction(1), Fraction(4, 3), Fraction(3, 2), Fraction(16, 9))
"""Aspect ratios of cameras. Their buckets have upstream's size, so for them nothing is distorted."""


@lru_cache(maxsize=256)
def bucket_table(lower_bound: int, max_long_side: int) -> tuple[Size, ...]:
    """List the buckets, the least elongated first, landscape before portrait.

    Neighbours differ in aspect ratio by at most 1.03 squared, so the nearest one is within 3 % for every image that is
    up to `max_long_side / 14` times as long as wide; what is longer gets the last bucket. With a `lower_bound` below
    238 or a `max_long_side` below 518 pixels there are too few patches for that, and neighbours are as near as they
    allow.

    Args:
        lower_bound: Shorter side of the input, a multiple of 14; a bucket is smaller only if its longer side would
            exceed the cap.
        max_long_side: Longest side of the input, a multiple of 14, at least `lower_bound`.
    """
    landscape = _landscape_buckets(lower_bound, max_long_side)
    portrait = (Size(size.width, size.height) for size in landscape)
    return tuple(dict.fromkeys(size for pair in zip(landscape, portrait, strict=True) for size in pair))


def nearest_bucket(source: Size, lower_bound: int, max_long_side: int) -> Size:
    """Choose the bucket whose aspect ratio is nearest to that of a source image."""
    aspect = math.log(source.width / source.height)
    return min(
        bucket_table(lower_bound, max_long_side), key=lambda size: abs(math.log(size.width / size.height) - aspect)
    )


def aspect_distortion(source: Size, size: Size) -> float:
    """Say by how much the aspect ratio changes: 0.03 is 3 %."""
    ratio = (source.width * size.height) / (source.height * size.width)
    return max(ratio, 1 / ratio) - 1


def _landscape_buckets(lower_bound: int, max_long_side: int) -> list[Size]:
    step = (1 + MAX_ASPECT_DISTORTION) ** 2
    candidates = sorted(_candidates(lower_bound, max_long_side), key=lambda size: (_aspect(size), size.pixels))
    anchors = [
        input_size(Size(aspect.denominator * 1000, aspect.numerator * 1000), lower_bound, max_long_side)
        for aspect in COMMON_ASPECTS
    ]
    buckets = [anchors[0]]
    while _aspect(buckets[-1]) < max_long_side / PATCH_SIZE:
        here = _aspect(buckets[-1])
        reachable = [size for size in candidates if here < _aspect(size) <= here * step]
        anchor = next((size for size in anchors if here < _aspect(size)), None)
        if anchor is not None and anchor in reachable:
            buckets.append(anchor)
            continue
        if not reachable:  # too few patches for a fine step: the next longer size, whatever it is
            reachable = [size for size in candidates if here < _aspect(size)][:1]
        if not reachable:
            break
        # Nearly the longest step, and of those sizes the one that loses the least resolution.
        longest = _aspect(reachable[-1])
        buckets.append(
            max((size for size in reachable if _aspect(size) * 1.02 >= longest), key=lambda size: size.pixels)
        )
    return buckets


def _candidates(lower_bound: int, max_long_side: int) -> list[Size]:
    """List sizes of full resolution, then those with the longest side near the cap."""
    full = [Size(lower_bound, width) for width in range(lower_bound, max_long_side + 1, PATCH_SIZE)]
    capped = [
        Size(height, width)
        for height in range(PATCH_SIZE, lower_bound, PATCH_SIZE)
        for width in range(max_long_side // 2 // PATCH_SIZE * PATCH_SIZE, max_long_side + 1, PATCH_SIZE)
        if width / height >= max_long_side / lower_bound
    ]
    return full + capped


def _aspect(size: Size) -> float:
    return size.width / size.height
