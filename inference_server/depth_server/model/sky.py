"""What Depth Anything 3 does with its sky head, for engines that give numpy arrays; pure.

Source: ByteDance-Seed/Depth-Anything-3 `model/da3.py`, `_process_mono_sky_estimation`. Upstream draws 100,000 pixels at
random for the quantile; here all are used, so that the same image gives the same depth.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from depth_server.model.variants import SKY_THRESHOLD

MIN_SKY_PIXELS: Final = 10
"""As many pixels of sky, or of something else, are taken for noise."""

SKY_QUANTILE: Final = 0.99
"""Quantile of the depth of everything else that the sky gets."""


def fill_sky(depth: NDArray[np.float32], sky: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put the sky of every image of a batch at its farthest depth.

    Args:
        depth: (B, H, W).
        sky: (B, H, W), the sky head's output.

    Returns:
        (B, H, W).
    """
    filled = depth.copy()
    for image, sky_map in zip(filled, sky, strict=True):
        is_sky = sky_map >= SKY_THRESHOLD
        sky_pixels = int(np.count_nonzero(is_sky))
        if min(sky_pixels, is_sky.size - sky_pixels) > MIN_SKY_PIXELS:
            image[is_sky] = np.quantile(image[~is_sky], SKY_QUANTILE)
    return filled
