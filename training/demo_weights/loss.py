"""The affine-invariant loss on inverse depth.

Sources: Ranftl et al., "Towards Robust Monocular Depth Estimation" (MiDaS, arXiv 1907.01341), equations 5, 6 and 11;
Yang et al., "Depth Anything" (arXiv 2401.10891), section 3.1. The relative term is an addition of this recipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

GRADIENT_SCALES: Final = 4
"""Resolutions, each half the one before, at which gradients are compared."""

GRADIENT_WEIGHT: Final = 0.5
"""Weight of the gradient term; it makes edges crisp."""

RELATIVE_WEIGHT: Final = 0.3
"""Weight of the relative term; it makes the far half of a scene count."""

RESIDUAL_LIMIT: Final = 6.0
"""Residuals beyond it, in mean absolute deviations, no longer pull."""

GRADIENT_LIMIT: Final = 3.0
"""The same for differences of residuals."""

ANCHOR_WEIGHT: Final = 0.01
"""Weight of the scale anchor: enough to hold the scale, too little to compete with the loss."""

RELATIVE_FLOOR: Final = 0.02
"""Share of the scene's mean inverse depth that is added to denominators of the relative term."""


def standardise(inverse: Tensor) -> Tensor:
    """Subtract the median and divide by the mean absolute deviation from it, per image.

    Args:
        inverse: (B, H, W).

    Returns:
        (B, H, W), free of the image's scale and shift.
    """
    flat = inverse.flatten(1)
    median = flat.median(dim=1).values[:, None, None]
    deviation = (inverse - median).abs().mean((1, 2), keepdim=True)
    return (inverse - median) / deviation.clamp(min=1e-4)


def gradient_term(residual: Tensor) -> Tensor:
    """Mean absolute differences of neighbouring residuals, summed over resolutions."""
    total = residual.new_zeros(())
    for scale in range(GRADIENT_SCALES):
        r = residual[:, :: 2**scale, :: 2**scale]
        total = total + (r[:, :, 1:] - r[:, :, :-1]).abs().clamp(max=GRADIENT_LIMIT).mean()
        total = total + (r[:, 1:] - r[:, :-1]).abs().clamp(max=GRADIENT_LIMIT).mean()
    return total


def least_squares(predicted: Tensor, truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift per image that bring predictions closest to the truth.

    Args:
        predicted: (B, H, W).
        truth: (B, H, W).
        mask: (B, H, W), 1 where a pixel counts.

    Returns:
        Scale and shift, (B, 1, 1) each; the scale is 0 where the prediction is constant.
    """
    count = mask.sum((1, 2), keepdim=True).clamp(min=1)
    mean_p = (predicted * mask).sum((1, 2), keepdim=True) / count
    mean_t = (truth * mask).sum((1, 2), keepdim=True) / count
    p, t = (predicted - mean_p) * mask, (truth - mean_t) * mask
    variance = (p * p).sum((1, 2), keepdim=True)
    scale = (p * t).sum((1, 2), keepdim=True) / variance.clamp(min=1e-12)
    return scale, mean_t - scale * mean_p


def relative_term(predicted: Tensor, truth: Tensor) -> Tensor:
    """Error of the aligned prediction as a share of the true inverse depth, without the sky, limited to 1."""
    mask = (truth > 0).to(truth.dtype)
    scale, shift = least_squares(predicted, truth, mask)
    count = mask.sum((1, 2), keepdim=True).clamp(min=1)
    floor = RELATIVE_FLOOR * (truth * mask).sum((1, 2), keepdim=True) / count
    error = (scale * predicted + shift - truth).abs() / (truth + floor).clamp(min=1e-6)
    return ((error.clamp(max=1.0) * mask).sum((1, 2), keepdim=True) / count).mean()


def affine_invariant_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Compare inverse depths up to scale and shift.

    Args:
        predicted: (B, H, W) float32.
        truth: (B, H, W) float32, 0 for the sky.

    Returns:
        A scalar: mean absolute residual after standardising both, plus gradients of the residual at four resolutions,
        plus the relative error after a least-squares fit.
    """
    residual = standardise(predicted) - standardise(truth)
    data = residual.abs().clamp(max=RESIDUAL_LIMIT).mean()
    return data + GRADIENT_WEIGHT * gradient_term(residual) + RELATIVE_WEIGHT * relative_term(predicted, truth)


def scale_anchor(predicted: Tensor) -> Tensor:
    """Pull the mean absolute deviation of each prediction towards 1.

    The loss does not see the scale of the output, so nothing else keeps it, and the activations of the head, from
    growing until biases are lost in them and fp16 overflows.

    Args:
        predicted: (B, H, W) float32.

    Returns:
        A scalar, 0 at a deviation of 1.
    """
    mean = predicted.mean((1, 2), keepdim=True)
    deviation = (predicted - mean).abs().mean((1, 2)).clamp(min=1e-4)
    return ANCHOR_WEIGHT * deviation.log().square().mean()
