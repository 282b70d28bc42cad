"""Accuracy after alignment, as relative models are compared (MiDaS, arXiv 1907.01341, section 6).

Per image: scale and shift by least squares in inverse depth over pixels with a true depth within the cap; then the
prediction is limited to the cap, inverted and compared as depth. Means are taken over images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from training.demo_weights.loss import least_squares

DEPTH_CAP: Final = 80.0
"""Metres, as for KITTI; beyond it, and in the sky, nothing is compared."""

DELTA: Final = 1.25
"""Ratio within which a pixel counts for delta1."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Figures per image, (B,) each.

    Attributes:
        abs_rel: Mean of |prediction - truth| / truth.
        delta1: Share of pixels whose depth is within a factor of 1.25.
    """

    abs_rel: Tensor
    delta1: Tensor


def accuracy(predicted: Tensor, truth: Tensor, cap: float = DEPTH_CAP) -> Accuracy:
    """Compare predicted with true inverse depth.

    Args:
        predicted: (B, H, W), any scale and shift.
        truth: (B, H, W) in 1/m, 0 for the sky.
        cap: Largest depth that counts, in metres.
    """
    predicted, truth = predicted.double(), truth.double()
    mask = (truth >= 1 / cap).double()
    scale, shift = least_squares(predicted, truth, mask)
    aligned = (scale * predicted + shift).clamp(min=1 / cap)
    ratio = aligned / truth.clamp(min=1 / cap)
    count = mask.sum((1, 2)).clamp(min=1)
    # depth / true depth is the inverse of the ratio of inverse depths.
    abs_rel = (((1 / ratio - 1).abs() * mask).sum((1, 2)) / count).float()
    within = (torch.maximum(ratio, 1 / ratio) < DELTA).double()
    return Accuracy(abs_rel, ((within * mask).sum((1, 2)) / count).float())
