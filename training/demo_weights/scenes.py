"""Draws tables of random scenes: what stands where, seen and lit how.

Everything is batched, so that a thousand scenes cost about as many operations as one. The same seed on the same kind
of device gives the same scenes; evaluation draws on the CPU, so its scenes are the same everywhere.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from training.demo_weights import columns as col
from training.demo_weights.kinds import KIND_SHARES, SceneKind, is_kind
from training.demo_weights.materials import sample_materials
from training.demo_weights.objects import PARTS, Part
from training.demo_weights.placement import place_objects
from training.demo_weights.surroundings import sample_camera, sample_lens, sample_light, sample_surroundings
from training.demo_weights.tables import Dice, SceneBatch, assemble, rotation
from training.demo_weights.templates import SLOTS, TEMPLATES

ENVIRONMENT: Final = 8
"""Primitives of the surroundings: ground, back, left, right, ceiling, rug or road, strip, backdrop."""

CAPACITY: Final = SLOTS * PARTS + ENVIRONMENT
"""Primitives per scene, at most."""


_FIELDS: Final = 13
"""Numbers per part while templates are chosen."""


def sample_scenes(count: int, generator: torch.Generator, kind_shares: tuple[float, ...] = KIND_SHARES) -> SceneBatch:
    """Draw scenes.

    Args:
        count: Number of scenes, B.
        generator: Source of randomness; its device is the device of the tables.
        kind_shares: How often each `SceneKind` is drawn.
    """
    dice = Dice(generator, count)
    shares = torch.tensor(kind_shares, device=generator.device)
    kinds = torch.multinomial(shares.expand(count, -1), 1, generator=generator)[:, 0]
    room = _sample_rooms(dice, kinds)
    placed = _sample_objects(count, generator, kinds, room)
    surroundings = sample_surroundings(dice, kinds, room)
    eye, view = sample_camera(dice, kinds, room)
    scenes = torch.zeros(count, col.SCENE_COLUMNS, device=generator.device)
    scenes[:, col.EYE : col.EYE + 3] = eye
    scenes[:, col.ROTATION : col.ROTATION + 9] = view.flatten(1)
    sample_lens(scenes, dice, kinds)
    sample_light(scenes, dice, kinds, room)
    small = is_kind(kinds, SceneKind.TABLETOP, SceneKind.FLOWER, SceneKind.CLUTTER)
    placed = _clear_of(placed, eye, torch.where(small, 0.12, dice(0.3, 1.0)))
    primitives = torch.cat([surroundings, placed], 1)
    shown = primitives[..., col.RADIUS] > 0
    order = torch.argsort((~shown).int(), dim=1, stable=True)
    primitives = torch.gather(primitives, 1, order[..., None].expand(-1, -1, col.PRIMITIVE_COLUMNS))
    scenes[:, col.COUNT] = shown.sum(1).float()
    return SceneBatch(primitives.contiguous(), scenes, kinds)


def _sample_rooms(dice: Dice, kinds: Tensor) -> Tensor:
    """Extents (left, right, depth, height) of the place, (B, 4)."""
    hall = dice.chance(0.15).float() * 1.5 + 1
    room = torch.stack([dice(1.0, 4.0), dice(1.0, 4.0), dice(2.5, 9.0), dice(2.2, 3.4)], -1) * hall[:, None]
    near = torch.stack([dice(0.5, 3.0), dice(0.5, 3.0), dice(0.8, 4.0), dice(2.0, 3.0)], -1)
    far = torch.stack([dice(4, 40), dice(4, 40), dice.exponential(10, 120), dice(3, 9)], -1)
    street = torch.stack([dice(2.5, 9), dice(2.5, 9), dice(25, 110), dice(3, 9)], -1)
    small = is_kind(kinds, SceneKind.TABLETOP, SceneKind.FLOWER, SceneKind.CLUTTER)[:, None]
    out = torch.where(small, near, far)
    out = torch.where(is_kind(kinds, SceneKind.STREET)[:, None], street, out)
    return torch.where(is_kind(kinds, SceneKind.INDOOR)[:, None], room, out)


def _pack(parts: list[Part], like: Tensor) -> Tensor:
    """Stack parts to (B, K, PARTS, 13): kind, centre, half, angles, material, cut, shown."""
    packed = []
    for part in parts:
        values = (
            part.kind,
            *part.centre,
            *part.half,
            part.turn,
            part.lean,
            part.roll,
            part.material,
            part.cut,
            part.shown,
        )
        packed.append(torch.stack([torch.as_tensor(v, device=like.device).float().expand_as(like) for v in values], -1))
    packed += [torch.zeros_like(packed[0])] * (PARTS - len(parts))
    return torch.stack(packed, 2)


def _sample_objects(count: int, generator: torch.Generator, kinds: Tensor, room: Tensor) -> Tensor:
    """Objects as rows of the table of primitives, (B, SLOTS * PARTS, PRIMITIVE_COLUMNS)."""
    device = generator.device
    dice = Dice(generator, count, SLOTS)
    weights = torch.tensor([row[2] for row in TEMPLATES], device=device).T
    types = torch.multinomial(weights[kinds], SLOTS, replacement=True, generator=generator)
    types, place, angles, scale, present = place_objects(dice, kinds, types, room)
    fields = torch.zeros(count, SLOTS, PARTS, _FIELDS, device=device)
    for number, (template, _, _) in enumerate(TEMPLATES):
        fields = torch.where((types == number)[..., None, None], _pack(template(dice), scale), fields)
    kind, centre, half, turns, material, cut, shown = torch.split(fields, [1, 3, 3, 3, 1, 1, 1], -1)
    whole = rotation(angles[..., 0], angles[..., 1], angles[..., 2])
    world = place[:, :, None] + scale[:, :, None, None] * torch.einsum("bkij,bkpj->bkpi", whole, centre)
    turned = whole[:, :, None] @ rotation(turns[..., 0], turns[..., 1], turns[..., 2])
    half = half * scale[..., None, None]
    themes = torch.tensor([[int(theme) for theme in row[1]] for row in TEMPLATES], device=device)[types]
    looks = sample_materials(themes, scale[..., None].expand_as(themes), generator)
    chosen = material.long().expand(-1, -1, -1, looks.shape[-1])
    looks = torch.gather(looks, 2, chosen)
    shown = shown * present[..., None, None].float()
    # Leaves and the gaps between them shrink with the crown.
    leaves = dice.exponential(2.5, 10.0)[..., None, None]
    holes = torch.cat([cut, leaves / (half.amax(-1, keepdim=True) + 0.02)], -1)
    rows = assemble(kind[..., 0], world, half, turned, looks, holes)
    rows = torch.where(shown > 0, rows, torch.zeros_like(rows))
    return rows.flatten(1, 2)


def _clear_of(rows: Tensor, eye: Tensor, distance: Tensor) -> Tensor:
    """Take away primitives that hold the camera or come nearer than `distance`, (B,), to it."""
    offset = eye[:, None] - rows[..., col.CENTRE : col.CENTRE + 3]
    matrix = rows[..., col.TO_LOCAL : col.TO_LOCAL + 9].reshape(*rows.shape[:2], 3, 3)
    local = torch.einsum("bnij,bnj->bni", matrix, offset)
    inside = torch.where(rows[..., col.KIND] == col.BOX, local.abs().amax(-1), local.norm(dim=-1)) < 1.25
    # The distance to the box around the primitive.
    gap = (local - local.clamp(-1, 1)) * rows[..., col.HALF_SIZE : col.HALF_SIZE + 3]
    blocking = inside | (gap.norm(dim=-1) < distance[:, None])
    return torch.where(blocking[..., None], torch.zeros_like(rows), rows)
