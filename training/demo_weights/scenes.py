"""Draws tables of random scenes: what stands where, seen and lit how.

Everything is batched, so that a thousand scenes cost about as many operations as one. The same seed on the same kind
of device gives the same scenes; evaluation draws on the CPU, so its scenes are the same everywhere.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from training.demo_weights import columns as col
from training.demo_weights import objects
from training.demo_weights.kinds import KIND_SHARES, SceneKind, is_kind
from training.demo_weights.materials import Theme, sample_materials
from training.demo_weights.objects import PARTS, Part
from training.demo_weights.surroundings import sample_camera, sample_lens, sample_light, sample_surroundings
from training.demo_weights.tables import Dice, SceneBatch, assemble, rotation

SLOTS: Final = 26
"""Objects per scene, at most."""

ENVIRONMENT: Final = 8
"""Primitives of the surroundings: ground, back, left, right, ceiling, rug or road, strip, backdrop."""

CAPACITY: Final = SLOTS * PARTS + ENVIRONMENT
"""Primitives per scene, at most."""


T = Theme
TEMPLATES: Final = (
    # template, themes of its three materials, then its weight in park, street, indoor, tabletop, clutter, forest,
    # flower and plaza
    (objects.box, (T.PAINT, T.WOOD, T.PAINT), (0.5, 1.0, 1.6, 3.0, 2.0, 0.1, 0.3, 1.0)),
    (objects.ball, (T.PAINT, T.STONE, T.PAINT), (0.3, 0.3, 0.6, 2.0, 1.5, 0.1, 0.3, 0.4)),
    (objects.post, (T.METAL, T.PAINT, T.PAINT), (1.0, 3.0, 0.6, 0.6, 1.0, 0.3, 0.2, 2.0)),
    (objects.cone, (T.CLOTH, T.PAINT, T.PAINT), (0.3, 0.6, 0.2, 1.0, 1.0, 0.1, 0.1, 0.5)),
    (objects.tree, (T.FOLIAGE, T.WOOD, T.FOLIAGE), (5.0, 2.0, 0.0, 0.2, 0.5, 8.0, 0.3, 2.5)),
    (objects.bare_tree, (T.WOOD, T.WOOD, T.WOOD), (1.2, 0.6, 0.0, 0.2, 0.3, 4.0, 0.3, 0.5)),
    (objects.conifer, (T.FOLIAGE, T.WOOD, T.FOLIAGE), (1.8, 0.4, 0.0, 0.1, 0.2, 4.0, 0.1, 0.5)),
    (objects.bush, (T.FOLIAGE, T.WOOD, T.FOLIAGE), (3.0, 0.8, 0.0, 0.3, 0.5, 4.0, 2.0, 1.0)),
    (objects.person, (T.CLOTH, T.CLOTH, T.SKIN), (3.0, 5.0, 1.6, 0.6, 0.6, 0.5, 0.0, 5.0)),
    (objects.car, (T.PAINT, T.DARK, T.DARK), (0.5, 5.0, 0.0, 0.5, 0.2, 0.0, 0.0, 1.5)),
    (objects.house, (T.FACADE, T.ROOF, T.MASONRY), (1.6, 1.5, 0.0, 0.2, 0.2, 0.3, 0.0, 1.0)),
    (objects.block, (T.FACADE, T.MASONRY, T.CLOTH), (0.6, 2.0, 0.0, 0.1, 0.1, 0.0, 0.0, 2.0)),
    (objects.pagoda, (T.PAINT, T.ROOF, T.WOOD), (1.0, 0.2, 0.0, 0.3, 0.2, 0.2, 0.0, 0.5)),
    (objects.tower, (T.MASONRY, T.ROOF, T.METAL), (0.7, 0.3, 0.0, 0.3, 0.2, 0.1, 0.0, 0.7)),
    (objects.table, (T.WOOD, T.WOOD, T.PAINT), (0.5, 0.5, 4.0, 0.3, 0.3, 0.0, 0.0, 0.6)),
    (objects.chair, (T.WOOD, T.METAL, T.PAINT), (0.5, 0.6, 5.0, 0.3, 0.3, 0.0, 0.0, 0.6)),
    (objects.shelf, (T.WOOD, T.PICTURE, T.PAINT), (0.0, 0.2, 3.5, 0.3, 0.3, 0.0, 0.0, 0.1)),
    (objects.sofa, (T.CLOTH, T.CLOTH, T.CLOTH), (0.0, 0.0, 2.5, 0.2, 0.2, 0.0, 0.0, 0.0)),
    (objects.lamp_post, (T.METAL, T.PAINT, T.PICTURE), (0.8, 3.0, 0.5, 0.2, 0.2, 0.1, 0.0, 1.5)),
    (objects.fence, (T.WOOD, T.WOOD, T.PAINT), (1.5, 1.5, 0.1, 0.1, 0.3, 0.5, 0.2, 1.0)),
    (objects.stairs, (T.STONE, T.STONE, T.STONE), (0.5, 0.5, 0.5, 0.3, 0.5, 0.0, 0.0, 1.5)),
    (objects.rosette, (T.PETAL, T.PETAL, T.FOLIAGE), (0.2, 0.0, 0.1, 0.6, 0.4, 0.0, 5.0, 0.1)),
    (objects.heap, (T.PAINT, T.CLOTH, T.METAL), (0.2, 0.4, 0.8, 2.5, 5.0, 0.1, 0.2, 0.3)),
    (objects.bridge, (T.STONE, T.WOOD, T.METAL), (0.7, 0.7, 0.1, 0.3, 0.6, 0.1, 0.0, 0.8)),
    (objects.picture, (T.WOOD, T.PICTURE, T.PAINT), (0.0, 0.2, 0.3, 0.5, 0.5, 0.0, 0.0, 0.1)),
    (objects.rock, (T.STONE, T.STONE, T.STONE), (1.0, 0.1, 0.0, 1.0, 0.8, 1.5, 0.4, 0.3)),
    (objects.hill, (T.FOLIAGE, T.STONE, T.FOLIAGE), (0.8, 0.2, 0.0, 0.0, 0.0, 0.8, 0.0, 0.2)),
    (objects.pot, (T.FOLIAGE, T.MASONRY, T.FOLIAGE), (0.3, 0.6, 1.5, 1.0, 0.5, 0.0, 1.0, 0.7)),
    (objects.bottle, (T.PAINT, T.METAL, T.PAINT), (0.0, 0.1, 0.8, 4.0, 0.8, 0.0, 0.1, 0.2)),
    (objects.wall, (T.MASONRY, T.STONE, T.MASONRY), (1.2, 0.8, 0.1, 0.2, 0.5, 0.2, 0.0, 0.8)),
    (objects.grass, (T.FOLIAGE, T.FOLIAGE, T.FOLIAGE), (1.0, 0.0, 0.0, 0.2, 0.2, 2.0, 4.0, 0.1)),
)
"""Templates with what they are made of and where they are found."""

DISTANT: Final = ("tree", "conifer", "house", "block", "pagoda", "tower", "hill", "bridge")
"""Templates that stand at a distance: their nearest place is scaled to their size."""

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
    types, place, angles, scale, present = _place(dice, kinds, types, room)
    fields = torch.zeros(count, SLOTS, PARTS, _FIELDS, device=device)
    for number, (template, _, _) in enumerate(TEMPLATES):
        fields = torch.where((types == number)[..., None, None], _pack(template(dice), scale), fields)
    kind, centre, half, turns, material, cut, shown = fields.split([1, 3, 3, 3, 1, 1, 1], -1)
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


def _numbers(*names: str) -> list[int]:
    return [number for number, row in enumerate(TEMPLATES) if row[0].__name__ in names]


def _place(dice: Dice, kinds: Tensor, types: Tensor, room: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Where objects stand: types, places (B, K, 3), angles (B, K, 3), scales and presence (B, K)."""
    device = types.device
    left, right, depth, _ = (room[:, i, None] for i in range(4))
    slot = torch.arange(SLOTS, device=device).expand_as(types)
    kind = kinds[:, None].expand_as(types)
    crowd = dice(0.35, 1.0)[:, :1]
    present = dice() < crowd
    scale = dice(0.8, 1.25)
    bulky = torch.isin(types, torch.tensor(_numbers(*DISTANT), device=device))

    z = 1.2 + bulky * 5.0 + (depth - 1.2) * dice() ** (1.2 + dice(0, 1.3)[:, :1])
    x = z * (dice() - 0.5) * 1.9 + dice(-1, 1)
    y = torch.zeros_like(x)
    right_angle = torch.floor(dice(0, 4)) * (math.pi / 2)
    turn = torch.where(dice() < 0.5, right_angle + dice(-0.05, 0.05), dice(0, 6.283))
    lean, roll = torch.zeros_like(x), torch.zeros_like(x)

    # Streets: the first slots are houses along both sides, facing the road.
    row = (kind == SceneKind.STREET) & (slot < 12)
    houses = torch.tensor(_numbers("house", "block", "tower", "wall"), device=device)
    fronts = houses[torch.floor(dice(0, 2.6)).long()]
    types = torch.where(row, fronts, types)
    side = (slot % 2) * 2.0 - 1
    kerb = torch.where(side > 0, right, left) + 5.5
    x = torch.where(row, side * kerb + dice(-0.7, 0.7), x)
    z = torch.where(row, (slot // 2 + dice(0.2, 1.0)) * dice(9, 14)[:, :1], z)
    turn = torch.where(row, side * (math.pi / 2), turn)
    walk = (kind == SceneKind.STREET) & ~row
    x = torch.where(walk, dice(-1.2, 1.2) * torch.where(x > 0, right, left).clamp(min=2), x)

    # Rooms: pictures on the walls, furniture along them or anywhere.
    indoor = kind == SceneKind.INDOOR
    hung = indoor & (slot < 5)
    types = torch.where(hung, torch.tensor(_numbers("picture")[0], device=device), types)
    which = torch.floor(dice(0, 3))
    at_wall = indoor & (hung | (dice() < 0.45))
    margin = torch.where(hung, 0.03, 0.4)
    free_x, free_z = -left + (left + right) * dice(0.08, 0.92), 0.8 + (depth - 0.8) * dice(0.05, 0.92)
    x = torch.where(indoor, free_x, x)
    z = torch.where(indoor, free_z, z)
    x = torch.where(at_wall & (which == 1), margin - left, torch.where(at_wall & (which == 2), right - margin, x))
    z = torch.where(at_wall & (which == 0), depth - margin, z)
    facing = torch.where(which == 0, 0.0, torch.where(which == 1, -math.pi / 2, math.pi / 2))
    turn = torch.where(at_wall, facing, turn)

    # Small things near the camera.
    table = kind == SceneKind.TABLETOP
    near_z = 0.35 + dice(0.0, 1.6)
    z = torch.where(table, near_z, z)
    x = torch.where(table, near_z * dice(-0.7, 0.7), x)
    scale = torch.where(table, torch.where(bulky, 0.02, dice(0.12, 0.4)), scale)

    clutter = kind == SceneKind.CLUTTER
    z = torch.where(clutter, 0.8 + (depth * 2 + 1) * dice() ** 1.5, z)
    x = torch.where(clutter, z * dice(-0.9, 0.9), x)
    y = torch.where(clutter & (dice() < 0.6), dice(-1.0, 2.5), y)
    scale = torch.where(clutter, torch.where(bulky, 0.12, dice(0.3, 1.2)), scale)
    lean = torch.where(clutter & (dice() < 0.5), dice(-1.5, 1.5), lean)
    roll = torch.where(clutter & (dice() < 0.5), dice(-1.5, 1.5), roll)

    # Flowers: rosettes share one or two centres and tilt towards the camera.
    flower = (kind == SceneKind.FLOWER) & (slot < 16)
    second = (slot >= 9).float()
    centre = [dice(-0.35, 0.35)[:, :1] * (1 - second) + dice(-0.9, 0.9)[:, :1] * second for _ in range(2)]
    head = dice(0.18, 0.45)[:, :1] * (1 - 0.4 * second)
    rosette = torch.tensor(_numbers("rosette")[0], device=device)
    types = torch.where(flower, rosette, types)
    x = torch.where(flower, centre[0] * 0.6, torch.where(kind == SceneKind.FLOWER, x * 0.5, x))
    y = torch.where(flower, 0.35 + 0.3 * centre[1] + dice(-0.03, 0.03), y)
    z = torch.where(
        flower,
        0.75 + dice(0, 0.8)[:, :1] * second + dice(0.0, 0.3)[:, :1],
        torch.where(kind == SceneKind.FLOWER, z + 1.0, z),
    )
    scale = torch.where(flower, head, scale)
    lean = torch.where(flower, dice(-1.3, 0.1)[:, :1] + dice(-0.08, 0.08), lean)
    present = present | (flower & (slot < 9)) | (row & (dice() < 0.8))
    return types, torch.stack([x, y, z], -1), torch.stack([turn, lean, roll], -1), scale, present


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
