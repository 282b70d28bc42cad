"""Upstream's preprocessing, transcribed: `depth_anything_v2/util/transform.py` and `dpt.py` (`image2tensor`)."""

import cv2
import numpy as np
from numpy.typing import NDArray

MULTIPLE = 14
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


def constrain_to_multiple_of(x: float, min_val: int) -> int:
    y = int(np.round(x / MULTIPLE) * MULTIPLE)
    if y < min_val:
        y = int(np.ceil(x / MULTIPLE) * MULTIPLE)
    return y


def upstream_size(width: int, height: int, target: int) -> tuple[int, int]:
    """`Resize.get_size` with `keep_aspect_ratio=True`, `resize_method="lower_bound"`: (width, height)."""
    scale_height = target / height
    scale_width = target / width
    if scale_width > scale_height:
        scale_height = scale_width
    else:
        scale_width = scale_height
    new_height = constrain_to_multiple_of(scale_height * height, target)
    new_width = constrain_to_multiple_of(scale_width * width, target)
    return new_width, new_height


def upstream_preprocess(rgb: NDArray[np.uint8], target: int) -> NDArray[np.float32]:
    image = rgb / 255.0
    size = upstream_size(image.shape[1], image.shape[0], target)
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    image = (image - MEAN) / STD
    return np.ascontiguousarray(np.transpose(image, (2, 0, 1))).astype(np.float32)
