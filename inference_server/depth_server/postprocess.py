"""From predicted depth to the answer's picture; pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_server.errors import NonFiniteDepthError
from depth_server.preprocess import Size

PNG_LEVELS: Final = 65535
"""Largest value of a 16-bit grey pixel."""


class Upsampling(StrEnum):
    """How depth is brought to the size of the source."""

    BILINEAR = "bilinear"
    NEAREST = "nearest"


@dataclass(frozen=True, slots=True)
class QuantisedDepth:
    """Depth as 16-bit integers; `minimum + levels / 65535 * (maximum - minimum)` gives it back.

    Attributes:
        levels: (H, W), 0 to 65535; all 0 where depth is constant.
        minimum: Depth of level 0.
        maximum: Depth of level 65535.
    """

    levels: NDArray[np.uint16]
    minimum: float
    maximum: float


def resize_depth(depth: NDArray[np.float32], size: Size, *, align_corners: bool) -> NDArray[np.float32]:
    """Resize bilinearly without antialiasing, as `torch.nn.functional.interpolate` does.

    Args:
        depth: (h, w).
        size: Size of the result.
        align_corners: Whether the centres of corner pixels coincide (V2) or the corners of the images do (V1).

    Returns:
        (size.height, size.width).
    """
    if depth.shape == (size.height, size.width):
        return depth
    top, bottom, down = _sample_positions(depth.shape[0], size.height, align_corners=align_corners)
    left, right, across = _sample_positions(depth.shape[1], size.width, align_corners=align_corners)
    rows = _blend(depth[:, left], depth[:, right], across[np.newaxis, :])
    return _blend(rows[top], rows[bottom], down[:, np.newaxis])


def resize_nearest(depth: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Repeat the nearest value, as `torch.nn.functional.interpolate` does in its mode `nearest`; invents no depth.

    Args:
        depth: (h, w).
        size: Size of the result.

    Returns:
        (size.height, size.width).
    """
    if depth.shape == (size.height, size.width):
        return depth
    # In whole numbers, where torch rounds in fp32.
    rows = np.arange(size.height) * depth.shape[0] // size.height
    columns = np.arange(size.width) * depth.shape[1] // size.width
    nearest: NDArray[np.float32] = depth[rows[:, np.newaxis], columns]
    return nearest


def quantise_depth(depth: NDArray[np.float32]) -> QuantisedDepth:
    """Spread depth over 16 bits.

    Args:
        depth: (H, W).

    Raises:
        NonFiniteDepthError: A value is NaN or infinite; a picture would hide it.
    """
    minimum, maximum = float(depth.min()), float(depth.max())
    if not (np.isfinite(minimum) and np.isfinite(maximum)):
        message = "the model gave NaN or infinite depth for this image"
        raise NonFiniteDepthError(message)
    if minimum == maximum:
        return QuantisedDepth(np.zeros(depth.shape, dtype=np.uint16), minimum, maximum)
    # In float64: the factor of a very small range overflows float32.
    levels = np.subtract(depth, minimum, dtype=np.float64)
    levels *= PNG_LEVELS / (maximum - minimum)
    return QuantisedDepth(np.rint(levels, out=levels).astype(np.uint16), minimum, maximum)


def encode_png(levels: NDArray[np.uint16]) -> bytes:
    """Encode (H, W) as a 16-bit grey PNG.

    OpenCV's default parameters are faster than an explicit compression level, which resets strategy and filter.
    """
    encoded, buffer = cv2.imencode(".png", levels)
    if not encoded:
        message = f"OpenCV could not encode a {levels.shape[1]}x{levels.shape[0]} PNG"
        raise RuntimeError(message)
    data: bytes = buffer.tobytes()
    return data


def _sample_positions(
    source: int, target: int, *, align_corners: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, for each target pixel, its two source pixels and the weight of the second."""
    index = np.arange(target, dtype=np.float64)
    if align_corners:
        position = index * ((source - 1) / (target - 1) if target > 1 else 0.0)
    else:
        position = np.maximum((index + 0.5) * (source / target) - 0.5, 0.0)
    first = np.minimum(position.astype(np.intp), source - 1)
    second = np.minimum(first + 1, source - 1)
    return first, second, (position - first).astype(np.float32)


def _blend(first: NDArray[np.float32], second: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute `first + weight * (second - first)` in the memory of `second`, which fancy indexing has just made."""
    second -= first
    second *= weight
    second += first
    return second
