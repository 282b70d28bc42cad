"""Tables of scenes, and the random numbers and matrices that fill them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.demo_weights import columns as col


@dataclass(frozen=True, slots=True)
class SceneBatch:
    """Tables of a batch of scenes.

    Attributes:
        primitives: (B, CAPACITY, PRIMITIVE_COLUMNS) float32; rows in use come first, the ground is the first.
        scenes: (B, SCENE_COLUMNS) float32.
        kinds: (B,) integers of `SceneKind`.
    """

    primitives: Tensor
    scenes: Tensor
    kinds: Tensor

    def __getitem__(self, index: slice) -> SceneBatch:
        return SceneBatch(self.primitives[index], self.scenes[index], self.kinds[index])

    def to(self, device: torch.device | str) -> SceneBatch:
        """Copy to a device."""
        return SceneBatch(self.primitives.to(device), self.scenes.to(device), self.kinds.to(device))


class Dice:
    """Uniform numbers of one shape from one generator."""

    def __init__(self, generator: torch.Generator, *shape: int) -> None:
        self.generator, self.shape, self.device = generator, shape, generator.device

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw from [low, high)."""
        return torch.rand(self.shape, generator=self.generator, device=self.device) * (high - low) + low

    def chance(self, share: float | Tensor) -> Tensor:
        """Draw booleans that are true with a probability."""
        return self() < share

    def exponential(self, low: float, high: float) -> Tensor:
        """Draw from [low, high) evenly on a logarithmic scale."""
        return torch.exp(self(math.log(low), math.log(high)))


def rotation(turn: Tensor, lean: Tensor, roll: Tensor) -> Tensor:
    """Matrices R_y(turn) R_x(lean) R_z(roll), (..., 3, 3), local to world."""
    st, ct, sl, cl, sr, cr = turn.sin(), turn.cos(), lean.sin(), lean.cos(), roll.sin(), roll.cos()
    rows = (
        (ct * cr + st * sl * sr, -ct * sr + st * sl * cr, st * cl),
        (cl * sr, cl * cr, -sl),
        (-st * cr + ct * sl * sr, st * sr + ct * sl * cr, ct * cl),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def assemble(
    kind: Tensor, centre: Tensor, half: Tensor, local_to_world: Tensor, looks: Tensor, holes: Tensor
) -> Tensor:
    """Make rows of the table of primitives.

    Args:
        kind: (...) unit shapes.
        centre: (..., 3).
        half: (..., 3) half extents.
        local_to_world: (..., 3, 3) rotations.
        looks: (..., 16) from `sample_materials`.
        holes: (..., 2) share and frequency of holes.

    Returns:
        (..., PRIMITIVE_COLUMNS).
    """
    half = half.clamp(min=1e-4)
    to_local = local_to_world.transpose(-1, -2) / half[..., None]
    reach = torch.where(kind == col.ELLIPSOID, half.amax(-1), half.norm(dim=-1))
    looks = torch.cat([looks[..., :12], half, looks[..., 15:]], -1)
    return torch.cat([centre, to_local.flatten(-2), kind[..., None], holes, reach[..., None], looks], -1)
