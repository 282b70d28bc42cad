"""From uploaded bytes to RGB pixels, with everything that can be wrong told apart; no state, no files.

Image bytes are hostile until decoded: the format is on an allow-list, the size is checked from the header before any
pixel is decoded, and whatever the decoder raises becomes an error of ours.
"""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from depth_server.errors import DepthServerError, ImageTooLargeError, InvalidImageError, UnsupportedMediaError
from depth_server.preprocess import Size

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Formats that are read, in Pillow's names; of animations and multi-page files the first picture."""

EXIF_ORIENTATION: Final = 0x0112
"""Tag of the orientation in EXIF 2.32, table 4."""

ORIENTATIONS: Final = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""What makes each orientation upright: transpose, then reverse rows, then reverse columns."""

SIXTEEN_BIT_MODES: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow's modes of 16-bit grey."""

ALPHA_MODES: Final = frozenset({"RGBA", "LA", "PA", "RGBa", "La", "RGBX"})
"""Pillow's modes with a fourth or second channel that is no colour."""

COLOUR_MODES: Final = frozenset({"RGB", "L", "1", "CMYK", "YCbCr", "HSV"})
"""Pillow's modes that convert to RGB without a loss of meaning."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds on a source image.

    Attributes:
        max_pixels: Height times width.
        max_side_pixels: Height or width.
    """

    max_pixels: int
    max_side_pixels: int


def decode_image(data: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    """Decode an image file.

    EXIF orientation is applied; grey becomes RGB; 16-bit grey is scaled to 8 bits; alpha is dropped as upstream's
    reader (`cv2.imread`) drops it; CMYK is converted; colour profiles are ignored, as upstream does.

    Args:
        data: The file.
        limits: Checked before pixels are decoded.

    Returns:
        (H, W, 3), RGB.

    Raises:
        InvalidImageError: Empty, truncated or damaged.
        UnsupportedMediaError: Not an image, or a format or pixel type that is not supported.
        ImageTooLargeError: Too many pixels.
    """
    if not data:
        message = "the file is empty"
        raise InvalidImageError(message)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(Size(image.height, image.width), limits)
            # Before the metadata: reading that may load a PNG and swallow its errors; TIFF is turned while it loads.
            image.load()
            return apply_orientation(_to_rgb(image), _exif_orientation(image))
    except DepthServerError:
        raise
    except UnidentifiedImageError as error:
        message = f"the file is not an image in one of the formats {', '.join(FORMATS)}"
        raise UnsupportedMediaError(message) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"the image has more than {limits.max_pixels} pixels"
        raise ImageTooLargeError(message) from error
    except Exception as error:
        message = f"the image is truncated or damaged ({type(error).__name__})"
        raise InvalidImageError(message) from error


def check_size(size: Size, limits: ImageLimits) -> None:
    """Compare the size in an image's header with the limits.

    Raises:
        ImageTooLargeError: Too many pixels.
        InvalidImageError: No pixels.
    """
    if size.pixels == 0:
        message = "the image has no pixels"
        raise InvalidImageError(message)
    if size.pixels > limits.max_pixels:
        message = f"the image has {size.width}x{size.height} = {size.pixels} pixels, the limit is {limits.max_pixels}"
        raise ImageTooLargeError(message)
    if max(size.height, size.width) > limits.max_side_pixels:
        message = f"the image has {size.width}x{size.height} pixels, the limit of a side is {limits.max_side_pixels}"
        raise ImageTooLargeError(message)


def apply_orientation(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn an image as its EXIF orientation says; values outside 1 to 8 mean upright.

    Args:
        image: (H, W, 3).
        orientation: EXIF 2.32: 1 upright, 2 mirrored, 3 upside down, 4 flipped, 5 to 8 the same transposed.

    Returns:
        (H, W, 3) or, for 5 to 8, (W, H, 3).
    """
    transposed, rows_reversed, columns_reversed = ORIENTATIONS.get(orientation, (False, False, False))
    turned = image.transpose(1, 0, 2) if transposed else image
    return turned[:: -1 if rows_reversed else 1, :: -1 if columns_reversed else 1]


def _exif_orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 damaged metadata of a sound picture: shown upright, as every viewer does
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    mode = image.mode
    if mode in SIXTEEN_BIT_MODES or (mode == "I" and image.format == "PNG"):
        # Pillow's own conversion clips at 255 instead of scaling; 65535 / 255 = 257.
        grey = np.asarray(image, dtype=np.float32) / np.float32(257)
        return np.repeat(np.rint(grey).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    if mode in {"P", "PA"}:
        # By way of RGBA, since a palette may carry transparency that the direct conversion warns about.
        image = image.convert("RGBA")
    elif mode not in ALPHA_MODES and mode not in COLOUR_MODES:
        message = f"pixels of the type {mode} are not supported; use 8-bit grey or colour, or 16-bit grey"
        raise UnsupportedMediaError(message)
    if image.mode == "RGBA":
        return np.asarray(image)[:, :, :3]
    if image.mode == "La":
        image = image.convert("LA")
    return np.asarray(image.convert("RGB"))
