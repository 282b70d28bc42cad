"""From depth at the size of the source to the bytes of an answer, in each media type; pure."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depth_server.errors import NonFiniteDepthError, NotAcceptableError
from depth_server.model.variants import DepthKind
from depth_server.negotiation import choose_media_type
from depth_server.png16 import encode_png16
from depth_server.postprocess import PNG_LEVELS

JSON: Final = "application/json"
PNG: Final = "image/png"
JPEG: Final = "image/jpeg"
TIFF: Final = "image/tiff"
NPY: Final = "application/x-npy"

DEPTH_MEDIA_TYPES: Final = (JSON, PNG, TIFF, NPY)
"""Representations of depth, the preferred one first."""

COLOUR_MEDIA_TYPES: Final = (PNG, JPEG)
"""Representations of depth as colours, the preferred one first."""

JPEG_QUALITY: Final = 90
"""Of colourised JPEGs: a picture to look at."""

COLOUR_PNG_PARAMETERS: Final = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
"""Palette colours in smooth gradients: run lengths compress them nearly as well as more work does."""


class Colormap(StrEnum):
    """Colours for depth, dark to bright."""

    INFERNO = "inferno"
    MAGMA = "magma"
    PLASMA = "plasma"
    VIRIDIS = "viridis"
    CIVIDIS = "cividis"
    TURBO = "turbo"
    GRAY = "gray"


OPENCV_COLORMAPS: Final = {
    Colormap.INFERNO: cv2.COLORMAP_INFERNO,
    Colormap.MAGMA: cv2.COLORMAP_MAGMA,
    Colormap.PLASMA: cv2.COLORMAP_PLASMA,
    Colormap.VIRIDIS: cv2.COLORMAP_VIRIDIS,
    Colormap.CIVIDIS: cv2.COLORMAP_CIVIDIS,
    Colormap.TURBO: cv2.COLORMAP_TURBO,
}
"""OpenCV's tables; grey needs none."""


@dataclass(frozen=True, slots=True)
class DepthMap:
    """Depth at the size of the source.

    Attributes:
        depth: (H, W), fp32.
        minimum: Smallest value.
        maximum: Largest value.
    """

    depth: NDArray[np.float32]
    minimum: float
    maximum: float

    @classmethod
    def of(cls, depth: NDArray[np.float32]) -> "DepthMap":
        """Find the range.

        Raises:
            NonFiniteDepthError: A value is NaN or infinite; a picture would hide it.
        """
        minimum, maximum = float(depth.min()), float(depth.max())
        if not (np.isfinite(minimum) and np.isfinite(maximum)):
            message = "the model gave NaN or infinite depth for this image"
            raise NonFiniteDepthError(message)
        return cls(depth, minimum, maximum)


@dataclass(frozen=True, slots=True)
class Representation:
    """What the answer consists of.

    Attributes:
        media_type: One of `DEPTH_MEDIA_TYPES`, or of `COLOUR_MEDIA_TYPES` if there is a colormap.
        colormap: None for depth itself.
    """

    media_type: str
    colormap: Colormap | None = None


def choose_representation(
    accept: str, colormap: Colormap | None, depth_offers: Sequence[str] = DEPTH_MEDIA_TYPES
) -> Representation:
    """Negotiate.

    Args:
        accept: The header `Accept`, empty if there is none.
        colormap: From the query.
        depth_offers: Media types of depth that there are, the preferred one first.

    Raises:
        NotAcceptableError: With what there is.
    """
    offers = depth_offers if colormap is None else COLOUR_MEDIA_TYPES
    chosen = choose_media_type(accept, offers)
    if chosen is None:
        condition = "" if colormap is None else f" with colormap={colormap}"
        message = f"the header Accept allows none of the representations{condition}: {', '.join(offers)}"
        if offers is DEPTH_MEDIA_TYPES and choose_media_type(accept, COLOUR_MEDIA_TYPES) is not None:
            message += f"; {JPEG} needs the parameter colormap, since it has no 16 bits"
        raise NotAcceptableError(message)
    return Representation(chosen, colormap)


def encode_depth(depth_map: DepthMap, representation: Representation, kind: str) -> bytes:
    """Encode depth in a media type; for JSON, the PNG that goes into it.

    Args:
        depth_map: What to encode.
        representation: How.
        kind: A `DepthKind`: says whether near is large.
    """
    if representation.colormap is not None:
        colours = colourise(depth_map, representation.colormap, near_is_large=kind == DepthKind.RELATIVE_INVERSE)
        return _ENCODE_COLOURS[representation.media_type](colours)
    return _ENCODE_DEPTH[representation.media_type](depth_map)


def depth_levels(depth_map: DepthMap) -> NDArray[np.uint16]:
    """Spread depth over 16 bits: `minimum + level / 65535 * (maximum - minimum)` gives it back.

    Returns:
        (H, W); all 0 where depth is constant.
    """
    span = depth_map.maximum - depth_map.minimum
    if not span:
        return np.zeros(depth_map.depth.shape, dtype=np.uint16)
    # In float64: the factor of a very small range overflows float32.
    levels = np.subtract(depth_map.depth, depth_map.minimum, dtype=np.float64)
    levels *= PNG_LEVELS / span
    return np.rint(levels, out=levels).astype(np.uint16)


def colourise(depth_map: DepthMap, colormap: Colormap, *, near_is_large: bool) -> NDArray[np.uint8]:
    """Give depth colours, bright where it is near.

    Returns:
        (H, W, 3), BGR.
    """
    grey = (depth_levels(depth_map) >> 8).astype(np.uint8)
    if not near_is_large:
        grey = ~grey
    if colormap is Colormap.GRAY:
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    return np.asarray(cv2.applyColorMap(grey, OPENCV_COLORMAPS[colormap]), dtype=np.uint8)


def encode_npy(array: NDArray[np.float32]) -> bytes:
    """Encode as numpy's `.npy` (NEP 1), version 1.0."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array, dtype="<f4"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def encode_tiff(depth: NDArray[np.float32]) -> bytes:
    """Encode as an uncompressed TIFF of one 32-bit float per pixel (TIFF 6.0 section 19)."""
    buffer = io.BytesIO()
    Image.fromarray(depth).save(buffer, "TIFF")
    return buffer.getvalue()


def encode_depth_png(depth_map: DepthMap) -> bytes:
    """Encode as a 16-bit grey PNG."""
    return encode_png16(depth_levels(depth_map))


def _encode_with_opencv(extension: str, colours: NDArray[np.uint8], parameters: tuple[int, ...]) -> bytes:
    encoded, buffer = cv2.imencode(extension, colours, parameters)
    if not encoded:
        message = f"OpenCV could not encode {colours.shape} as {extension}"
        raise RuntimeError(message)
    data: bytes = buffer.tobytes()
    return data


_ENCODE_DEPTH: Final[dict[str, Callable[[DepthMap], bytes]]] = {
    JSON: encode_depth_png,
    PNG: encode_depth_png,
    TIFF: lambda depth_map: encode_tiff(depth_map.depth),
    NPY: lambda depth_map: encode_npy(depth_map.depth),
}
"""How depth becomes each of `DEPTH_MEDIA_TYPES`."""

_ENCODE_COLOURS: Final[dict[str, Callable[[NDArray[np.uint8]], bytes]]] = {
    PNG: lambda colours: _encode_with_opencv(".png", colours, COLOUR_PNG_PARAMETERS),
    JPEG: lambda colours: _encode_with_opencv(".jpg", colours, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)),
}
"""How colours become each of `COLOUR_MEDIA_TYPES`."""
