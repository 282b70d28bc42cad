"""The photograph that goes in and the pictures that come out."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import sklearn.datasets

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

PHOTOGRAPH = "china.jpg"
JPEG_QUALITY = 92
UINT16_MAX = 65535


def write_photograph(path: Path) -> tuple[int, int]:
    """Writes scikit-learn's photograph of a temple as JPEG; returns (width, height) in pixels."""
    image = sklearn.datasets.load_sample_image(PHOTOGRAPH)
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return image.shape[1], image.shape[0]


def decode_depth(answer: dict[str, Any]) -> npt.NDArray[np.float32]:
    """The depth values (height, width) of an answer of ``POST /predict``: 16-bit levels over [min, max]."""
    encoded = np.frombuffer(base64.b64decode(answer["depth_map"]), np.uint8)
    levels = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if levels is None or levels.dtype != np.uint16:
        raise ValueError("depth_map holds no 16-bit PNG")
    low, high = float(answer["min"]), float(answer["max"])
    return (levels.astype(np.float32) / UINT16_MAX * (high - low) + low).astype(np.float32)


def colourise(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """A colour picture (height, width, 3), BGR, bright where the values are large (near, for inverse depth)."""
    span = float(depth.max() - depth.min())
    scaled = (depth - depth.min()) / span if span > 0 else np.zeros_like(depth)
    return np.asarray(cv2.applyColorMap(np.rint(scaled * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), dtype=np.uint8)


def write_results(depth: npt.NDArray[np.float32], picture: Path, values: Path) -> None:
    """Writes the colourised picture as PNG and the values as npy."""
    cv2.imwrite(str(picture), colourise(depth))
    np.save(values, depth)
