"""Colours and textures. Everything is drawn at random around what a material usually looks like.

A share of all materials ignores its theme, so that neither colour nor pattern tells a surface's depth.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import torch
from torch import Tensor

from training.demo_weights import columns as col


class Theme(IntEnum):
    """What a part is made of; the row of the tables below."""

    FOLIAGE = 0
    WOOD = 1
    MASONRY = 2
    PAINT = 3
    STONE = 4
    SKIN = 5
    METAL = 6
    CLOTH = 7
    DARK = 8
    PETAL = 9
    ROOF = 10
    FACADE = 11
    PICTURE = 12
    PLASTER = 13
    FLOOR = 14
    SOIL = 15


COLOUR_RANGES: Final = (
    # hue low, hue high, saturation low, high, value low, high
    (0.17, 0.36, 0.35, 0.85, 0.03, 0.32),
    (0.04, 0.11, 0.30, 0.75, 0.05, 0.45),
    (0.00, 0.14, 0.05, 0.60, 0.12, 0.75),
    (0.00, 1.00, 0.00, 0.95, 0.03, 0.85),
    (0.05, 0.65, 0.00, 0.18, 0.08, 0.60),
    (0.03, 0.09, 0.30, 0.65, 0.10, 0.70),
    (0.50, 0.70, 0.00, 0.15, 0.05, 0.55),
    (0.00, 1.00, 0.00, 0.90, 0.02, 0.75),
    (0.50, 0.70, 0.00, 0.40, 0.01, 0.08),
    (0.78, 1.18, 0.35, 0.98, 0.15, 0.85),
    (0.96, 1.10, 0.10, 0.80, 0.06, 0.50),
    (0.04, 0.16, 0.00, 0.40, 0.20, 0.80),
    (0.00, 1.00, 0.10, 0.95, 0.05, 0.85),
    (0.05, 0.65, 0.00, 0.25, 0.25, 0.90),
    (0.02, 0.16, 0.05, 0.60, 0.05, 0.60),
    (0.05, 0.25, 0.15, 0.60, 0.05, 0.40),
)

TEXTURE_SHARES: Final = (
    # fractal noise, tiles, bricks, planks, windows, patches
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.1),
    (0.4, 0.0, 0.0, 1.0, 0.0, 0.0),
    (0.6, 0.2, 0.8, 0.0, 0.2, 0.1),
    (1.0, 0.1, 0.0, 0.1, 0.0, 0.3),
    (1.0, 0.2, 0.2, 0.0, 0.0, 0.2),
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0, 0.1, 0.0, 0.0),
    (1.0, 0.2, 0.0, 0.3, 0.0, 0.5),
    (1.0, 0.1, 0.0, 0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.2),
    (0.5, 0.2, 0.6, 0.4, 0.0, 0.0),
    (0.2, 0.1, 0.2, 0.1, 1.0, 0.0),
    (0.3, 0.2, 0.0, 0.2, 0.1, 1.0),
    (1.0, 0.1, 0.1, 0.1, 0.0, 0.1),
    (0.5, 0.7, 0.1, 0.7, 0.0, 0.2),
    (1.0, 0.0, 0.0, 0.0, 0.0, 0.3),
)

FREQUENCIES: Final = (6.0, 5.0, 2.2, 4.0, 3.0, 4.0, 4.0, 7.0, 3.0, 8.0, 3.0, 0.45, 3.5, 2.0, 1.6, 2.0)
"""Typical texture cells per metre, by theme."""

ANY_COLOUR: Final = 0.12
"""Share of materials whose colour ignores the theme."""

ANY_TEXTURE: Final = 0.1
"""Share of materials whose texture ignores the theme."""


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Convert to linear RGB, (..., 3); hue wraps around at 1."""
    offsets = torch.tensor([0.0, 4.0, 2.0], device=hue.device)
    ramp = ((hue[..., None] * 6 + offsets) % 6 - 3).abs() - 1
    return value[..., None] * (1 - saturation[..., None] * (1 - ramp.clamp(0, 1)))


def sample_materials(themes: Tensor, size: Tensor, generator: torch.Generator) -> Tensor:
    """Draw materials.

    Args:
        themes: Integers of any shape.
        size: Scale of the object relative to its usual size, broadcast with `themes`: patterns shrink with it.
        generator: Source of randomness, on the same device.

    Returns:
        (..., 16): the columns `COLOUR_A` to `CONTRAST` of the table of primitives, in order; the half sizes are 0.
    """
    shape, device = themes.shape, themes.device

    def draw(low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=generator, device=device) * (high - low) + low

    ranges = torch.tensor(COLOUR_RANGES, device=device)[themes]
    free = draw() < ANY_COLOUR
    hue = torch.where(free, draw(), ranges[..., 0] + (ranges[..., 1] - ranges[..., 0]) * draw())
    saturation = torch.where(free, draw(), ranges[..., 2] + (ranges[..., 3] - ranges[..., 2]) * draw())
    value = torch.where(free, draw(0.03, 0.85), ranges[..., 4] + (ranges[..., 5] - ranges[..., 4]) * draw())
    first = hsv_to_rgb(hue, saturation, value)
    other_hue = torch.where(draw() < 0.12, draw(), hue + draw(-0.06, 0.06))
    other = hsv_to_rgb(
        other_hue, (saturation * draw(0.5, 1.3)).clamp(0, 1), (value * 2 ** draw(-1.6, 1.2)).clamp(0, 0.9)
    )
    shares = torch.tensor(TEXTURE_SHARES, device=device)
    shares = torch.where((draw() < ANY_TEXTURE)[..., None], torch.ones_like(shares[0]), shares[themes])
    kind = (shares.cumsum(-1) < (draw() * shares.sum(-1))[..., None]).sum(-1).clamp(max=shares.shape[-1] - 1)
    # Panes of a façade are dark glass whatever the wall is made of.
    glass = (kind == col.TEXTURE_WINDOWS)[..., None]
    other = torch.where(glass, other * 0.15 + 0.01, other)
    frequency = torch.tensor(FREQUENCIES, device=device)[themes] * 2 ** draw(-1.3, 1.3) / size.clamp(min=1e-3)
    contrast = torch.where(kind == col.TEXTURE_FBM, draw(0.1, 1.0), draw(0.4, 1.0))
    bump = draw() ** 2 * 0.7
    gloss = torch.where(draw() < 0.3, draw(0.1, 1.2), torch.zeros_like(hue))
    emission = torch.where(draw() < 0.015, draw(0.5, 3.0), torch.zeros_like(hue))
    seed = torch.floor(draw(0, 4096))
    half = torch.zeros(*shape, 3, device=device)
    scalars = torch.stack([kind.float(), frequency, bump, gloss, emission, seed], -1)
    return torch.cat([first, other, scalars, half, contrast[..., None]], -1)
