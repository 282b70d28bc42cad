"""Where objects stand in each kind of scene.

The order in which numbers are drawn is part of the held-out scenes: changing it changes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training.demo_weights.kinds import SceneKind
from training.demo_weights.templates import DISTANT, SLOTS, template_numbers

if TYPE_CHECKING:
    from training.demo_weights.tables import Dice


@dataclass(slots=True)
class Placement:
    """Objects of a batch while they are being placed; all tensors are (B, K).

    Attributes:
        kind: Kind of the scene, repeated for every slot.
        slot: Number of the slot.
        types: Rows of `TEMPLATES`.
        bulky: Whether the type first drawn is a big one.
        present: Whether the slot is used.
        scale: Size relative to the usual one.
        x: To the right, in metres.
        y: Up.
        z: Ahead.
        turn: About y, in radians.
        lean: About x.
        roll: About z.
    """

    kind: Tensor
    slot: Tensor
    types: Tensor
    bulky: Tensor
    present: Tensor
    scale: Tensor
    x: Tensor
    y: Tensor
    z: Tensor
    turn: Tensor
    lean: Tensor
    roll: Tensor


def place_objects(
    dice: Dice, kinds: Tensor, types: Tensor, room: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Place every object.

    Args:
        dice: Numbers of shape (B, K).
        kinds: (B,) integers of `SceneKind`.
        types: (B, K) rows of `TEMPLATES`.
        room: (B, 4) extents to the left, to the right, in depth and height.

    Returns:
        Types, some of them replaced; places (B, K, 3); angles about y, x and z (B, K, 3); scales; presence.
    """
    left, right, depth, _ = (room[:, i, None] for i in range(4))
    p = _scatter(dice, kinds, types, depth)
    fronts = _line_streets(p, dice, left, right)
    _furnish(p, dice, left, right, depth)
    _set_table(p, dice)
    _strew(p, dice, depth)
    blossoms = _grow_flowers(p, dice)
    p.present = p.present | blossoms | (fronts & (dice() < 0.8))
    return p.types, torch.stack([p.x, p.y, p.z], -1), torch.stack([p.turn, p.lean, p.roll], -1), p.scale, p.present


def _scatter(dice: Dice, kinds: Tensor, types: Tensor, depth: Tensor) -> Placement:
    """Spread objects over what the camera sees, denser near by."""
    device = types.device
    crowd = dice(0.35, 1.0)[:, :1]
    present = dice() < crowd
    scale = dice(0.8, 1.25)
    bulky = torch.isin(types, torch.tensor(template_numbers(*DISTANT), device=device))
    z = 1.2 + bulky * 5.0 + (depth - 1.2) * dice() ** (1.2 + dice(0, 1.3)[:, :1])
    x = z * (dice() - 0.5) * 1.9 + dice(-1, 1)
    right_angle = torch.floor(dice(0, 4)) * (math.pi / 2)
    turn = torch.where(dice() < 0.5, right_angle + dice(-0.05, 0.05), dice(0, 6.283))
    return Placement(
        kind=kinds[:, None].expand_as(types),
        slot=torch.arange(SLOTS, device=device).expand_as(types),
        types=types,
        bulky=bulky,
        present=present,
        scale=scale,
        x=x,
        y=torch.zeros_like(x),
        z=z,
        turn=turn,
        lean=torch.zeros_like(x),
        roll=torch.zeros_like(x),
    )


def _line_streets(p: Placement, dice: Dice, left: Tensor, right: Tensor) -> Tensor:
    """Make the first slots of a street houses along both sides that face the road; return which they are."""
    row = (p.kind == SceneKind.STREET) & (p.slot < 12)
    houses = torch.tensor(template_numbers("house", "block", "tower", "wall"), device=p.types.device)
    fronts = houses[torch.floor(dice(0, 2.6)).long()]
    p.types = torch.where(row, fronts, p.types)
    side = (p.slot % 2) * 2.0 - 1
    kerb = torch.where(side > 0, right, left) + 5.5
    p.x = torch.where(row, side * kerb + dice(-0.7, 0.7), p.x)
    p.z = torch.where(row, (p.slot // 2 + dice(0.2, 1.0)) * dice(9, 14)[:, :1], p.z)
    p.turn = torch.where(row, side * (math.pi / 2), p.turn)
    walk = (p.kind == SceneKind.STREET) & ~row
    p.x = torch.where(walk, dice(-1.2, 1.2) * torch.where(p.x > 0, right, left).clamp(min=2), p.x)
    return row


def _furnish(p: Placement, dice: Dice, left: Tensor, right: Tensor, depth: Tensor) -> None:
    """In rooms, hang pictures on the walls and set furniture along them or anywhere."""
    indoor = p.kind == SceneKind.INDOOR
    hung = indoor & (p.slot < 5)
    p.types = torch.where(hung, torch.tensor(template_numbers("picture")[0], device=p.types.device), p.types)
    which = torch.floor(dice(0, 3))
    at_wall = indoor & (hung | (dice() < 0.45))
    margin = torch.where(hung, 0.03, 0.4)
    free_x, free_z = -left + (left + right) * dice(0.08, 0.92), 0.8 + (depth - 0.8) * dice(0.05, 0.92)
    p.x = torch.where(indoor, free_x, p.x)
    p.z = torch.where(indoor, free_z, p.z)
    at_left, at_right = at_wall & (which == 1), at_wall & (which == 2)
    p.x = torch.where(at_left, margin - left, torch.where(at_right, right - margin, p.x))
    p.z = torch.where(at_wall & (which == 0), depth - margin, p.z)
    facing = torch.where(which == 0, 0.0, torch.where(which == 1, -math.pi / 2, math.pi / 2))
    p.turn = torch.where(at_wall, facing, p.turn)


def _set_table(p: Placement, dice: Dice) -> None:
    """On tables, put small things near the camera."""
    table = p.kind == SceneKind.TABLETOP
    near = 0.35 + dice(0.0, 1.6)
    p.z = torch.where(table, near, p.z)
    p.x = torch.where(table, near * dice(-0.7, 0.7), p.x)
    p.scale = torch.where(table, torch.where(p.bulky, 0.02, dice(0.12, 0.4)), p.scale)


def _strew(p: Placement, dice: Dice, depth: Tensor) -> None:
    """In clutter, let things float and tumble."""
    clutter = p.kind == SceneKind.CLUTTER
    p.z = torch.where(clutter, 0.8 + (depth * 2 + 1) * dice() ** 1.5, p.z)
    p.x = torch.where(clutter, p.z * dice(-0.9, 0.9), p.x)
    p.y = torch.where(clutter & (dice() < 0.6), dice(-1.0, 2.5), p.y)
    p.scale = torch.where(clutter, torch.where(p.bulky, 0.12, dice(0.3, 1.2)), p.scale)
    p.lean = torch.where(clutter & (dice() < 0.5), dice(-1.5, 1.5), p.lean)
    p.roll = torch.where(clutter & (dice() < 0.5), dice(-1.5, 1.5), p.roll)


def _grow_flowers(p: Placement, dice: Dice) -> Tensor:
    """Let rosettes share one or two centres and tilt towards the camera; return the slots of the first flower."""
    close = p.kind == SceneKind.FLOWER
    flower = close & (p.slot < 16)
    second = (p.slot >= 9).float()
    centre = [dice(-0.35, 0.35)[:, :1] * (1 - second) + dice(-0.9, 0.9)[:, :1] * second for _ in range(2)]
    head = dice(0.18, 0.45)[:, :1] * (1 - 0.4 * second)
    rosette = torch.tensor(template_numbers("rosette")[0], device=p.types.device)
    p.types = torch.where(flower, rosette, p.types)
    p.x = torch.where(flower, centre[0] * 0.6, torch.where(close, p.x * 0.5, p.x))
    p.y = torch.where(flower, 0.35 + 0.3 * centre[1] + dice(-0.03, 0.03), p.y)
    ahead = 0.75 + dice(0, 0.8)[:, :1] * second + dice(0.0, 0.3)[:, :1]
    p.z = torch.where(flower, ahead, torch.where(close, p.z + 1.0, p.z))
    p.scale = torch.where(flower, head, p.scale)
    p.lean = torch.where(flower, dice(-1.3, 0.1)[:, :1] + dice(-0.08, 0.08), p.lean)
    return flower & (p.slot < 9)
