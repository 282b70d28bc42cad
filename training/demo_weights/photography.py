"""Makes photographs of rendered radiance: lens, exposure, tone curve, noise, JPEG. Also the training augmentation."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 torch's own convention
from torch import Tensor

LUMA: Final = (0.2126, 0.7152, 0.0722)
"""Luminance of linear RGB (Rec. 709)."""

JPEG_BLOCK: Final = 8
"""Side of a JPEG block in pixels."""


class PerImage:
    """Random numbers of shape (B, 1, 1, 1), one per image."""

    def __init__(self, batch: int, generator: torch.Generator) -> None:
        self.batch, self.generator = batch, generator

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw from [low, high)."""
        shape = (self.batch, 1, 1, 1)
        return torch.rand(shape, generator=self.generator, device=self.generator.device) * (high - low) + low

    def chance(self, share: float) -> Tensor:
        """1 with the given probability, else 0."""
        return (self() < share).float()


def luminance(rgb: Tensor) -> Tensor:
    """Weighted mean of (B, 3, H, W) linear RGB, (B, 1, H, W)."""
    red, green, blue = LUMA
    return red * rgb[:, :1] + green * rgb[:, 1:2] + blue * rgb[:, 2:]


def defocus(rgb: Tensor, inverse: Tensor, draw: PerImage) -> Tensor:
    """Blur what is off the plane of focus, more the larger the aperture."""
    peak = inverse.flatten(1).amax(1)[:, None, None, None].clamp(min=1e-3)
    focus = draw(0.2, 1.0)
    aperture = draw.chance(0.25) * draw(0.5, 2.5)
    circle = (aperture * ((inverse[:, None] / peak).sqrt() - focus).abs() - 0.15).clamp(0, 2)
    small = F.avg_pool2d(rgb, 5, 1, 2, count_include_pad=False)
    large = F.avg_pool2d(small, 11, 1, 5, count_include_pad=False)
    near = circle.clamp(max=1)
    far = (circle - 1).clamp(min=0)
    return (rgb + (small - rgb) * near) * (1 - far) + large * far


def develop(rgb: Tensor, draw: PerImage) -> Tensor:
    """Expose and tone-map linear radiance to display values in [0, 1]."""
    mean = luminance(rgb).clamp(max=4.0).mean((1, 2, 3), keepdim=True).clamp(min=1e-4)
    exposed = rgb * (torch.exp(draw(math.log(0.13), math.log(0.42))) / mean)
    balance = torch.cat([torch.exp(draw(-0.2, 0.2)), torch.exp(draw(-0.05, 0.05)), torch.exp(draw(-0.2, 0.2))], 1)
    exposed = exposed * balance
    shoulder = draw(0.3, 1.5)
    soft = exposed * (1 + shoulder) / (exposed + shoulder)
    mixed = torch.where(draw.chance(0.6) > 0, soft, exposed).clamp(0, 1)
    shown = mixed.clamp(min=1e-5) ** (1 / draw(1.8, 2.5))
    contrast = draw(0.0, 0.6) * draw.chance(0.5)
    shown = shown + (shown * shown * (3 - 2 * shown) - shown) * contrast
    grey = luminance(shown)
    saturation = torch.where(draw.chance(0.04) > 0, torch.zeros_like(contrast), draw(0.5, 1.4))
    return (grey + (shown - grey) * saturation).clamp(0, 1)


def vignette(rgb: Tensor, draw: PerImage) -> Tensor:
    """Darken towards the corners."""
    height, width = rgb.shape[-2:]
    y = torch.linspace(-1, 1, height, device=rgb.device)[:, None]
    x = torch.linspace(-1, 1, width, device=rgb.device)
    return rgb * (1 - draw(0.0, 0.25) * draw.chance(0.4) * (x * x + y * y))


def sensor_noise(rgb: Tensor, draw: PerImage) -> Tensor:
    """Add Gaussian noise, partly in proportion to brightness and partly shared by the channels."""
    level = draw(0.0, 0.2) ** 2
    shape = (rgb.shape[0], 4, *rgb.shape[-2:])
    raw = torch.randn(shape, generator=draw.generator, device=rgb.device)
    return rgb + level * (0.4 + 0.6 * rgb) * (0.6 * raw[:, :3] + 0.6 * raw[:, 3:])


@lru_cache(maxsize=8)
def _cosines(device: torch.device) -> Tensor:
    k = torch.arange(JPEG_BLOCK, device=device, dtype=torch.float32)
    basis = torch.cos(math.pi / JPEG_BLOCK * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / JPEG_BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


def jpeg(rgb: Tensor, draw: PerImage) -> Tensor:
    """Quantise 8x8 blocks of cosines as JPEG does, with steps that grow with frequency."""
    height, width = rgb.shape[-2:]
    padded = F.pad(rgb, (0, -width % JPEG_BLOCK, 0, -height % JPEG_BLOCK), mode="replicate")
    blocks = padded.unfold(2, JPEG_BLOCK, JPEG_BLOCK).unfold(3, JPEG_BLOCK, JPEG_BLOCK)
    basis = _cosines(rgb.device)
    grey = blocks.mean(1, keepdim=True)
    frequency = torch.arange(JPEG_BLOCK, device=rgb.device, dtype=torch.float32)
    growth = 1 + 0.6 * (frequency[:, None] + frequency)
    step = draw(0.002, 0.09)[..., None, None] * growth
    out = []
    for plane, coarse in ((grey, 1.0), (blocks - grey, 1.8)):
        spectrum = basis @ plane @ basis.T
        out.append(basis.T @ (torch.round(spectrum / (step * coarse)) * (step * coarse)) @ basis)
    joined = (out[0] + out[1]).permute(0, 1, 2, 4, 3, 5).reshape(padded.shape)
    return joined[..., :height, :width]


def photograph(radiance: Tensor, inverse: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn renderings into photographs with the inverse depth that belongs to them.

    Args:
        radiance: (B, 3, H, W) linear.
        inverse: (B, H, W) in 1/m.
        generator: Source of randomness on the same device.

    Returns:
        RGB in [0, 1], (B, 3, H, W), and inverse depth, (B, H, W); both mirrored in half of the images.
    """
    draw = PerImage(radiance.shape[0], generator)
    rgb = vignette(develop(defocus(radiance, inverse, draw), draw), draw)
    soft = F.avg_pool2d(rgb, 3, 1, 1, count_include_pad=False)
    rgb = rgb + (soft - rgb) * draw(-0.5, 1.0) * draw.chance(0.6)  # below zero sharpens, as cameras do
    rgb = sensor_noise(rgb, draw)
    # Images of a batch are independent, so that the first half may stand for a random half.
    half = (rgb.shape[0] + 1) // 2
    rgb = torch.cat([jpeg(rgb[:half], PerImage(half, generator)), rgb[half:]]).clamp(0, 1)
    mirrored = draw.chance(0.5) > 0
    return torch.where(mirrored, rgb.flip(3), rgb), torch.where(mirrored[:, 0], inverse.flip(2), inverse)
