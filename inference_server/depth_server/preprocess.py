"""From a decoded image to the network's input; pure.

The rules are upstream's (`depth_anything_v2/util/transform.py`, `Resize` with `lower_bound`, `NormalizeImage`,
`PrepareForNet`; `dpt.py`, `image2tensor`). Ours is the cap on the long side.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_server.model.variants import PATCH_SIZE

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
"""Mean of R, G, B in [0, 1] that the backbone was trained with."""

IMAGENET_STD: Final = (0.229, 0.224, 0.225)
"""Deviation of R, G, B in [0, 1] that the backbone was trained with."""

WORK_UNIT_PIXELS: Final = 518 * 518
"""Input pixels of one work unit, the unit of load in metrics."""


@dataclass(frozen=True, slots=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Height times width."""
        return self.height * self.width

    @property
    def work_units(self) -> float:
        """Cost of a forward pass at this size; 1 is a 518x518 image."""
        return self.pixels / WORK_UNIT_PIXELS


def input_size(source: Size, lower_bound: int, max_long_side: int) -> Size:
    """Compute the size of the network's input.

    Upstream scales so that the shorter side becomes `lower_bound` and rounds both sides to multiples of 14, half to
    even, up where the result would be below the bound. Where the longer side would exceed `max_long_side`, the image
    is scaled so that the longer side equals it, and the shorter side is rounded likewise, to at least one patch.

    Args:
        source: Size of the source image after its EXIF orientation.
        lower_bound: Shorter side of the input, a multiple of 14.
        max_long_side: Longest side of the input, a multiple of 14, at least `lower_bound`.
    """
    scale = max(lower_bound / source.height, lower_bound / source.width)
    height = _round_to_patch(scale * source.height, lower_bound)
    width = _round_to_patch(scale * source.width, lower_bound)
    if max(height, width) <= max_long_side:
        return Size(height, width)
    scale = max_long_side / max(source.height, source.width)
    return Size(
        min(_round_to_patch(scale * source.height, PATCH_SIZE), max_long_side),
        min(_round_to_patch(scale * source.width, PATCH_SIZE), max_long_side),
    )


def preprocess(image: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
    """Resize and normalise.

    Args:
        image: (H, W, 3), RGB.
        size: Size of the result.

    Returns:
        (3, size.height, size.width), contiguous.
    """
    pixel_values = np.empty((3, size.height, size.width), dtype=np.float32)
    for channel in range(3):
        # Upstream converts the whole image to float64 before it resizes; by channel the numbers are the same and the
        # memory is a third.
        plane = image[:, :, channel] / 255.0
        resized = cv2.resize(plane, (size.width, size.height), interpolation=cv2.INTER_CUBIC)
        pixel_values[channel] = (resized - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
    return pixel_values


def preprocess_fast(image: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
    """Resize and normalise like `preprocess`, in fp32: an eighth of its time, within 1e-4 of its numbers.

    Args:
        image: (H, W, 3), RGB.
        size: Size of the result.

    Returns:
        (3, size.height, size.width), contiguous.
    """
    pixel_values = np.empty((3, size.height, size.width), dtype=np.float32)
    for channel, (mean, deviation) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        plane = image[:, :, channel].astype(np.float32)
        resized = cv2.resize(plane, (size.width, size.height), interpolation=cv2.INTER_CUBIC)
        np.multiply(resized, np.float32(1 / (255 * deviation)), out=pixel_values[channel])
        pixel_values[channel] -= np.float32(mean / deviation)
    return pixel_values


def _round_to_patch(length: float, minimum: int) -> int:
    rounded = round(length / PATCH_SIZE) * PATCH_SIZE
    return rounded if rounded >= minimum else math.ceil(length / PATCH_SIZE) * PATCH_SIZE
