"""What is around the objects: ground, walls, camera, lens, light and sky."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 torch's own convention
from torch import Tensor

from training.demo_weights import columns as col
from training.demo_weights.kinds import SceneKind, is_kind
from training.demo_weights.materials import Theme, sample_materials
from training.demo_weights.tables import Dice, assemble, rotation


def sample_surroundings(dice: Dice, kinds: Tensor, room: Tensor) -> Tensor:
    """Ground, walls, ceiling, rug, strip and backdrop, (B, 8, PRIMITIVE_COLUMNS), the ground first.

    Args:
        dice: Numbers of shape (B,).
        kinds: (B,) integers of `SceneKind`.
        room: (B, 4) extents to the left, to the right, in depth and height.
    """
    left, right, depth, height = room.unbind(-1)
    zero, indoor = torch.zeros_like(left), is_kind(kinds, SceneKind.INDOOR)
    street = is_kind(kinds, SceneKind.STREET)
    near = is_kind(kinds, SceneKind.TABLETOP, SceneKind.FLOWER, SceneKind.CLUTTER)
    sunk = torch.where(is_kind(kinds, SceneKind.CLUTTER) & dice.chance(0.5), torch.full_like(zero, -6.0), zero)
    thick, wide = 0.1, (left + right) / 2
    middle = (right - left) / 2
    walled = indoor | (near & dice.chance(0.3))
    extent = torch.where(
        is_kind(kinds, SceneKind.TABLETOP) & dice.chance(0.5), dice(0.8, 3.0), torch.full_like(zero, 3000.0)
    )
    back = torch.where(near, dice(1.5, 8.0), depth)
    rug_x, rug_z = middle + wide * dice(-0.6, 0.6), depth * dice(0.2, 0.8)
    road = torch.where(street, left * 0.75, dice(0.6, 2.5))
    strip = (street & dice.chance(0.85)) | (is_kind(kinds, SceneKind.PARK, SceneKind.PLAZA) & dice.chance(0.4))
    screen = dice.chance(0.12) & ~indoor
    floor_top = height.clamp(min=1.0) / 2
    long = (depth / 2 + 2).clamp(min=3)
    # centre, half extents, turn, shown
    parts = (
        ((zero, sunk - 0.5, zero), (extent, zero + 0.5, extent), zero, zero + 1),
        (
            (middle, floor_top, back + thick),
            (wide + 0.3 + 20 * near, floor_top * (1 + 2 * near), zero + thick),
            zero,
            walled & dice.chance(0.96),
        ),
        ((-left - thick, floor_top, long), (zero + thick, floor_top, long + 3), zero, indoor & dice.chance(0.93)),
        ((right + thick, floor_top, long), (zero + thick, floor_top, long + 3), zero, indoor & dice.chance(0.93)),
        ((middle, height + thick, long), (wide + 0.3, zero + thick, long + 3), zero, indoor & dice.chance(0.95)),
        ((rug_x, zero, rug_z), (dice(0.4, 1.8), zero + 0.012, dice(0.4, 1.8)), dice(0, 3.2), indoor & dice.chance(0.5)),
        ((zero, sunk, long), (road, zero + 0.015, long * 3), torch.where(street, zero, dice(-0.6, 0.6)), strip),
        (
            (dice(-2, 2), dice(1, 3), depth * dice(0.15, 0.6)),
            (dice(0.5, 4), dice(0.5, 3), zero + 0.1),
            dice(-0.8, 0.8),
            screen,
        ),
    )
    centre = torch.stack([torch.stack(part[0], -1) for part in parts], 1)
    half = torch.stack([torch.stack(part[1], -1) for part in parts], 1)
    turn = torch.stack([part[2] for part in parts], 1)
    shown = torch.stack([part[3].float() for part in parts], 1)
    themes = _themes(dice, kinds)
    size = torch.where(near, dice(0.1, 0.5), torch.ones_like(zero))[:, None].expand_as(turn)
    looks = sample_materials(themes, size, dice.generator)
    box, whole = torch.zeros_like(turn), torch.zeros_like(half[..., :2])
    rows = assemble(box, centre, half, rotation(turn, box, box), looks, whole)
    return torch.where(shown[..., None] > 0, rows, torch.zeros_like(rows))


def _themes(dice: Dice, kinds: Tensor) -> Tensor:
    """Themes of the eight parts, (B, 8)."""
    grass = torch.where(dice.chance(0.6), int(Theme.FOLIAGE), int(Theme.SOIL))
    hard = torch.where(dice.chance(0.6), int(Theme.STONE), int(Theme.FLOOR))
    green = is_kind(kinds, SceneKind.PARK, SceneKind.FOREST, SceneKind.FLOWER)
    ground = torch.where(green & dice.chance(0.75), grass, hard)
    indoors = torch.where(dice.chance(0.7), int(Theme.FLOOR), int(Theme.WOOD))
    ground = torch.where(is_kind(kinds, SceneKind.INDOOR, SceneKind.TABLETOP), indoors, ground)
    walls = torch.where(dice.chance(0.75), int(Theme.PLASTER), int(Theme.MASONRY))
    ceiling = torch.full_like(walls, int(Theme.PLASTER))
    cloth, stone = torch.full_like(walls, int(Theme.CLOTH)), torch.full_like(walls, int(Theme.STONE))
    other = torch.where(dice.chance(0.5), int(Theme.PICTURE), int(Theme.WOOD))
    back = torch.where(dice.chance(0.8), walls, other)
    return torch.stack([ground, back, walls, walls, ceiling, cloth, stone, other], 1)


def sample_camera(dice: Dice, kinds: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (B, 3) and camera-to-world rotations (B, 3, 3)."""
    aerial = is_kind(kinds, SceneKind.PLAZA) | (is_kind(kinds, SceneKind.PARK) & dice.chance(0.12))
    eye_height = torch.where(dice.chance(0.6), dice(1.3, 1.8), dice(0.4, 3.0))
    eye_height = torch.where(aerial, dice.exponential(3, 30), eye_height)
    pitch = torch.where(dice.chance(0.5), dice(-0.12, 0.1), dice(-0.4, 0.3))
    pitch = torch.where(aerial, dice(-0.65, -0.1), pitch)
    table, flower = is_kind(kinds, SceneKind.TABLETOP), is_kind(kinds, SceneKind.FLOWER)
    eye_height = torch.where(table, dice(0.12, 0.8), torch.where(flower, dice(0.3, 0.9), eye_height))
    down = -torch.atan(eye_height / 1.0) * dice(0.1, 1.0)
    pitch = torch.where(table, down, torch.where(flower, dice(-0.55, 0.2), pitch))
    indoor = is_kind(kinds, SceneKind.INDOOR)
    eye_height = torch.where(indoor, torch.minimum(eye_height.clamp(min=0.6), room[:, 3] - 0.3), eye_height)
    pitch = torch.where(indoor, dice(-0.4, 0.12), pitch)
    yaw = torch.where(indoor | is_kind(kinds, SceneKind.STREET), dice(-0.5, 0.5), dice(-0.15, 0.15))
    roll = torch.where(dice.chance(0.7), dice(-0.03, 0.03), dice(-0.15, 0.15))
    eye = torch.stack([dice(-0.5, 0.5) * (~(table | flower)).float(), eye_height, torch.zeros_like(yaw)], -1)
    # Positive lean turns y towards z, so looking down is a positive lean.
    return eye, rotation(yaw, -pitch, roll)


def sample_lens(scenes: Tensor, dice: Dice, kinds: Tensor) -> None:
    """Write field of view and principal point into the table of scenes."""
    tangent = dice.exponential(0.22, 0.75)
    flower = is_kind(kinds, SceneKind.FLOWER, SceneKind.TABLETOP)
    scenes[:, col.TANGENT] = torch.where(flower, dice.exponential(0.25, 0.6), tangent)
    shifted = dice.chance(0.3).float()
    scenes[:, col.PRINCIPAL] = dice(-0.25, 0.25) * shifted
    scenes[:, col.PRINCIPAL + 1] = dice(-0.25, 0.25) * shifted


def sample_light(scenes: Tensor, dice: Dice, kinds: Tensor, room: Tensor) -> None:
    """Write light, sky, haze and mirror into the table of scenes."""
    indoor, small = is_kind(kinds, SceneKind.INDOOR), is_kind(kinds, SceneKind.TABLETOP, SceneKind.CLUTTER)
    lamp = indoor | (small & dice.chance(0.5))
    overcast, night = ~lamp & dice.chance(0.3), ~lamp & dice.chance(0.05)
    height = dice(0.12, 1.0)
    azimuth = dice(0, 6.283)
    sun = F.normalize(torch.stack([azimuth.cos(), height * 1.6, azimuth.sin()], -1), dim=-1)
    warm = (1 - height) * dice(0.2, 1.0)
    sun_colour = torch.stack([torch.ones_like(warm), 1 - 0.3 * warm, 1 - 0.6 * warm], -1)
    strength = torch.where(overcast, dice(0.0, 0.4), dice(1.2, 3.5)) * torch.where(night, 0.05, 1.0)
    left, right, depth, top = room.unbind(-1)
    window = dice.chance(0.4)
    lamp_x = torch.where(
        window & dice.chance(0.5), right * 0.85, torch.where(window, -left * 0.85, dice(-0.7, 0.7) * left)
    )
    lamp_y = torch.where(window, dice(1.0, 2.0), top * dice(0.7, 0.93))
    lamp_z = torch.where(small, dice(-0.5, 2.0), depth * dice(-0.1, 0.85))
    bulb = torch.stack([lamp_x, torch.where(small, dice(0.7, 2.5), lamp_y), lamp_z], -1)
    tint = dice(-0.35, 0.15)
    lamp_colour = torch.stack([1 - 0.2 * tint, torch.ones_like(tint), 1 + tint], -1) * dice(0.6, 2.2)[:, None]
    light = torch.where(lamp[:, None], bulb, sun)
    colour = torch.where(lamp[:, None], lamp_colour, sun_colour * strength[:, None])
    blue = torch.stack([dice(0.1, 0.35), dice(0.25, 0.5), dice(0.5, 0.95)], -1)
    grey = dice(0.45, 1.0)[:, None] * torch.tensor([0.96, 0.98, 1.02], device=light.device)
    zenith = torch.where(overcast[:, None], grey * dice(0.6, 1.1)[:, None], blue)
    pale = torch.stack([dice(0.6, 1.0), dice(0.7, 0.95), dice(0.75, 1.0)], -1)
    sunset = (sun_colour * dice(0.7, 1.1)[:, None]).clamp(max=1.1)
    horizon = torch.where(dice.chance(0.25)[:, None], sunset, pale)
    horizon = torch.where(overcast[:, None], grey, horizon)
    plain = dice.chance(0.15)[:, None]  # a studio backdrop, a blown-out or a graduated sky
    zenith = torch.where(plain, horizon, zenith)
    dark = torch.where(night, 0.06, 1.0)[:, None]
    zenith, horizon = zenith * dark, horizon * dark
    fill = torch.where(lamp, dice(0.12, 0.6), torch.where(overcast, dice(0.7, 1.1), dice(0.35, 0.8)))[:, None]
    neutral = dice(0.85, 1.15)[:, None] * torch.tensor([1.0, 1.0, 1.0], device=light.device)
    above = torch.where(lamp[:, None], neutral, 0.5 * zenith + 0.5 * horizon) * fill
    below = above * dice(0.15, 0.6)[:, None] * torch.tensor([1.05, 1.0, 0.9], device=light.device)
    for start, value in (
        (col.LIGHT, light), (col.LIGHT_COLOUR, colour), (col.AMBIENT_UP, above), (col.AMBIENT_DOWN, below),
        (col.ZENITH, zenith), (col.HORIZON, horizon),
    ):  # fmt: skip
        scenes[:, start : start + 3] = value
    scenes[:, col.LAMP] = lamp.float()
    clouds = torch.where(dice.chance(0.4), dice(0.0, 0.3), dice(0.3, 0.9))
    scenes[:, col.CLOUDS] = torch.where(plain[:, 0], torch.zeros_like(clouds), clouds)
    hazy = dice.chance(0.5)
    haze = torch.where(hazy, dice.exponential(0.001, 0.03), torch.full_like(clouds, 3e-4))
    scenes[:, col.HAZE] = torch.where(lamp, torch.zeros_like(haze), haze)
    scenes[:, col.SOFTNESS] = torch.where(lamp, dice(0.01, 0.3), torch.where(overcast, dice(0.1, 0.5), dice(0.0, 0.06)))
    scale = torch.where(small | is_kind(kinds, SceneKind.FLOWER), 0.2, 1.0)
    scenes[:, col.OCCLUSION_RANGE] = dice.exponential(0.3, 2.5) * scale
    wet = dice.chance(torch.where(is_kind(kinds, SceneKind.PARK, SceneKind.FOREST), 0.3, 0.15))
    scenes[:, col.MIRROR] = torch.where(wet, dice(0.15, 0.95), torch.zeros_like(haze))
    scenes[:, col.RIPPLE] = dice() ** 3 * 0.25
    scenes[:, col.SCENE_SEED] = torch.floor(dice(0, 1e6))
    scenes[:, col.LAMP_REACH] = dice(1.0, 5.0) * torch.where(small, 0.7, 1.0)
