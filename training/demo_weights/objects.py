"""Templates of objects: each turns random numbers into at most six primitives that stand on y = 0 around the origin.

All templates work on whole batches: every random number and every result has the shape (B, K) of scenes and slots.
Sizes are in metres and typical of the thing; placement scales and turns the whole object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from training.demo_weights import columns as col

PARTS: Final = 6
"""Primitives per object."""

Number = float | Tensor
Draw = Callable[..., Tensor]
"""`draw(low, high)` gives uniform numbers of shape (B, K)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One primitive of a template, in the object's frame.

    Attributes:
        kind: Unit shape.
        centre: Centre, (x, y, z).
        half: Half extents along its own axes.
        turn: Angle about y, applied last, in radians.
        lean: Angle about x, applied second.
        roll: Angle about z, applied first.
        material: Which of the object's three materials.
        cut: Share of holes, 0 for none.
        shown: 1 where the part exists.
    """

    kind: int
    centre: tuple[Number, Number, Number]
    half: tuple[Number, Number, Number]
    turn: Number = 0.0
    lean: Number = 0.0
    roll: Number = 0.0
    material: int = 0
    cut: Number = 0.0
    shown: Number = 1.0


def box(draw: Draw) -> list[Part]:
    """A crate, a block, a plinth, sometimes with a smaller one on top."""
    w, h, d = draw(0.15, 1.0), draw(0.15, 1.2), draw(0.15, 1.0)
    s = draw(0.3, 0.8)
    top = Part(
        col.BOX, (0.0, 2 * h + s * h, 0.0), (w * s, h * s, d * s), turn=draw(0, 3), material=1, shown=_chance(draw, 0.3)
    )
    return [Part(col.BOX, (0.0, h, 0.0), (w, h, d)), top]


def ball(draw: Draw) -> list[Part]:
    """A ball or an egg, sometimes on a stand."""
    r, stand = draw(0.1, 0.6), draw(0.05, 0.8) * _chance(draw, 0.35)
    return [
        Part(col.ELLIPSOID, (0.0, 2 * stand + r, 0.0), (r, r * draw(0.8, 1.2), r)),
        Part(col.CYLINDER, (0.0, stand, 0.0), (r * 0.4, stand, r * 0.4), material=1, shown=(stand > 0).float()),
    ]


def post(draw: Draw) -> list[Part]:
    """A post, pole, pipe or thick column, sometimes with a plate or a ball on top."""
    r, h = draw(0.03, 0.3) ** 1.2, draw(0.4, 2.5)
    plate = _chance(draw, 0.4)
    s = draw(0.2, 0.6)
    return [
        Part(col.CYLINDER, (0.0, h, 0.0), (r, h, r)),
        Part(col.BOX, (0.0, 2 * h - s, 0.0), (s, s * draw(0.4, 1.2), 0.02), material=1, shown=plate),
        Part(col.ELLIPSOID, (0.0, 2 * h, 0.0), (r * 1.8, r * 1.8, r * 1.8), material=2, shown=_chance(draw, 0.3)),
    ]


def cone(draw: Draw) -> list[Part]:
    """A cone on a plate, or a tent."""
    r, h = draw(0.15, 1.0), draw(0.2, 1.2)
    return [
        Part(col.CONE, (0.0, h, 0.0), (r, h, r * draw(0.7, 1.3))),
        Part(col.BOX, (0.0, 0.02, 0.0), (r * 1.2, 0.02, r * 1.2), material=1),
    ]


def tree(draw: Draw) -> list[Part]:
    """A trunk under a crown of leafy ellipsoids."""
    trunk, crown = draw(0.6, 2.6), draw(0.9, 2.4)
    r = draw(0.06, 0.28)
    parts = [
        Part(
            col.CYLINDER,
            (0.0, trunk * 1.3, 0.0),
            (r, trunk * 1.3, r),
            lean=draw(-0.1, 0.1),
            roll=draw(-0.1, 0.1),
            material=1,
        )
    ]
    for _ in range(5):
        s = crown * draw(0.45, 0.8)
        place = (crown * draw(-0.7, 0.7), 2 * trunk + crown * draw(0.1, 1.3), crown * draw(-0.7, 0.7))
        parts.append(Part(col.ELLIPSOID, place, (s, s * draw(0.6, 1.0), s), cut=draw(0.3, 0.55)))
    return parts


def bare_tree(draw: Draw) -> list[Part]:
    """A trunk and leaning branches."""
    h, r = draw(1.0, 3.0), draw(0.05, 0.2)
    parts = [Part(col.CYLINDER, (0.0, h, 0.0), (r, h, r), lean=draw(-0.1, 0.1), material=1)]
    for _ in range(5):
        length, angle, turn = h * draw(0.3, 0.7), draw(0.4, 1.1), draw(0, 6.28)
        foot = h * draw(0.9, 1.8)
        aside = length * torch.sin(angle)
        place = (aside * torch.sin(turn), foot + length * torch.cos(angle), aside * torch.cos(turn))
        half = (r * 0.45, length, r * 0.45)
        parts.append(Part(col.CYLINDER, place, half, turn=turn, lean=angle, material=1))
    return parts


def conifer(draw: Draw) -> list[Part]:
    """A trunk and stacked cones."""
    h, r = draw(1.5, 4.5), draw(0.7, 1.8)
    parts = [Part(col.CYLINDER, (0.0, h * 0.5, 0.0), (0.12, h * 0.5, 0.12), material=1)]
    cut = draw(0.0, 0.45)
    for level in range(4):
        s = 1 - 0.2 * level
        parts.append(Part(col.CONE, (0.0, h * (0.45 + 0.42 * level), 0.0), (r * s, h * 0.36, r * s), cut=cut))
    return parts


def bush(draw: Draw) -> list[Part]:
    """Leafy ellipsoids close to the ground: a bush, a hedge, a clump of grass."""
    size = draw(0.25, 1.1)
    parts = []
    for _ in range(6):
        s = size * draw(0.5, 1.0)
        place = (size * draw(-1.4, 1.4), s * draw(0.3, 1.0), size * draw(-0.8, 0.8))
        parts.append(Part(col.ELLIPSOID, place, (s, s * draw(0.6, 1.3), s), cut=draw(0.15, 0.5)))
    return parts


def person(draw: Draw) -> list[Part]:
    """A standing or walking figure."""
    h = draw(0.75, 0.95)
    stride, girth = draw(0.0, 0.4), draw(0.15, 0.24)
    leg = (0.085, h * 0.5, 0.085)
    arm = (0.055, h * 0.34, 0.055)
    return [
        Part(col.ELLIPSOID, (0.0, 1.86 * h, 0.0), (0.1, 0.13, 0.11), material=2),
        Part(col.ELLIPSOID, (0.0, 1.33 * h, 0.0), (girth, h * 0.42, girth * 0.7)),
        Part(col.CYLINDER, (0.09, h * 0.48, stride * 0.3), leg, lean=stride, material=1),
        Part(col.CYLINDER, (-0.09, h * 0.48, -stride * 0.3), leg, lean=-stride, material=1),
        Part(col.CYLINDER, (girth + 0.04, 1.3 * h, 0.0), arm, lean=-stride, roll=draw(0, 0.5)),
        Part(col.CYLINDER, (-girth - 0.04, 1.3 * h, 0.0), arm, lean=stride, roll=draw(-0.5, 0)),
    ]


def car(draw: Draw) -> list[Part]:
    """A body, a cabin and four wheels, or a van."""
    length, width, h = draw(1.7, 2.4), draw(0.75, 0.95), draw(0.3, 0.45)
    cabin = draw(0.25, 0.55)
    parts = [
        Part(col.BOX, (0.0, 0.35 + h, 0.0), (width, h, length)),
        Part(
            col.BOX,
            (0.0, 0.35 + 2 * h + cabin, length * draw(-0.3, 0.1)),
            (width * 0.88, cabin, length * draw(0.5, 0.9)),
            material=1,
        ),
    ]
    for x, z in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        parts.append(
            Part(col.CYLINDER, (x * width, 0.34, z * length * 0.62), (0.34, 0.12, 0.34), roll=1.5708, material=2)
        )
    return parts


def house(draw: Draw) -> list[Part]:
    """A body with a gable roof, chimney, door and an annex."""
    w, h, d = draw(2.0, 5.0), draw(1.3, 3.5), draw(2.0, 6.0)
    ridge = w * 0.74
    gable = _chance(draw, 0.75)
    return [
        Part(col.BOX, (0.0, h, 0.0), (w, h, d)),
        Part(col.BOX, (0.0, 2 * h, 0.0), (ridge, ridge, d * 1.04), roll=0.7854, material=1, shown=gable),
        Part(col.BOX, (w * 0.5, 2 * h + w * 0.6, d * draw(-0.6, 0.6)), (0.3, w * 0.5, 0.3), material=2),
        Part(col.BOX, (w * draw(-0.6, 0.6), 1.0, -d), (0.5, 1.0, 0.06), material=2),
        Part(
            col.BOX,
            (w * 1.3, h * 0.6, d * draw(-0.4, 0.4)),
            (w * 0.5, h * 0.6, d * 0.5),
            material=1,
            shown=_chance(draw, 0.5),
        ),
        Part(col.BOX, (0.0, 2 * h + 0.05, -d - 0.7), (w * 0.5, 0.06, 0.8), material=2, shown=_chance(draw, 0.4)),
    ]


def block(draw: Draw) -> list[Part]:
    """An office or apartment building: body, plinth, roof edge, balconies."""
    w, h, d = draw(3.0, 7.0), draw(4.0, 18.0), draw(3.0, 7.0)
    return [
        Part(col.BOX, (0.0, h, 0.0), (w, h, d)),
        Part(col.BOX, (0.0, 1.6, 0.0), (w + 0.15, 1.6, d + 0.15), material=1),
        Part(col.BOX, (0.0, 2 * h + 0.2, 0.0), (w + 0.3, 0.25, d + 0.3), material=1),
        Part(col.BOX, (w * draw(-0.5, 0.5), 2 * h + 1.2, d * draw(-0.5, 0.5)), (1.2, 1.2, 1.2), material=2),
        Part(col.BOX, (w * draw(-0.5, 0.5), h, -d - 0.5), (w * 0.3, 0.1, 0.6), material=1, shown=_chance(draw, 0.5)),
        Part(col.BOX, (0.0, 3.3, -d - 0.6), (w * 0.8, 0.06, 0.7), material=2, shown=_chance(draw, 0.6)),
    ]


def pagoda(draw: Draw) -> list[Part]:
    """Storeys that shrink, each under a wide roof."""
    w, h = draw(1.5, 4.0), draw(0.9, 1.8)
    parts = []
    for level in range(3):
        s = 1 - 0.22 * level
        foot = 2 * h * level * 1.25
        octagon = col.CYLINDER if level == 0 else col.BOX
        parts.append(Part(octagon, (0.0, foot + h, 0.0), (w * s * 0.75, h, w * s * 0.75)))
        parts.append(
            Part(col.CONE, (0.0, foot + 2 * h + h * 0.35, 0.0), (w * s * 1.3, h * 0.45, w * s * 1.3), material=1)
        )
    return parts


def tower(draw: Draw) -> list[Part]:
    """A round or square tower with a gallery and a pointed or domed top."""
    r, h = draw(0.8, 2.5), draw(3.0, 9.0)
    dome = _chance(draw, 0.5)
    return [
        Part(col.CYLINDER, (0.0, h, 0.0), (r, h, r)),
        Part(col.CYLINDER, (0.0, 1.7 * h, 0.0), (r * 1.2, 0.25, r * 1.2), material=1),
        Part(col.CONE, (0.0, 2 * h + r, 0.0), (r * 1.15, r, r * 1.15), material=1, shown=1 - dome),
        Part(col.ELLIPSOID, (0.0, 2 * h, 0.0), (r * 1.05, r * 1.2, r * 1.05), material=1, shown=dome),
        Part(col.CYLINDER, (0.0, 2 * h + 2 * r, 0.0), (0.06, r, 0.06), material=2),
        Part(col.BOX, (0.0, 1.1, -r), (0.5, 1.1, 0.2), material=2),
    ]


def table(draw: Draw) -> list[Part]:
    """A table top on four legs with something on it."""
    w, h, d = draw(0.4, 1.1), draw(0.2, 0.4), draw(0.3, 0.6)
    parts = [
        Part(col.BOX, (0.0, 2 * h, 0.0), (w, 0.025, d)),
        Part(col.ELLIPSOID, (w * draw(-0.6, 0.6), 2 * h + 0.15, d * draw(-0.6, 0.6)), (0.1, 0.14, 0.1), material=2),
    ]
    for x, z in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        parts.append(Part(col.BOX, (x * w * 0.9, h, z * d * 0.9), (0.03, h, 0.03), material=1))
    return parts


def chair(draw: Draw) -> list[Part]:
    """Seat, back and four legs."""
    w, h = draw(0.2, 0.28), draw(0.2, 0.26)
    parts = [
        Part(col.BOX, (0.0, 2 * h, 0.0), (w, 0.03, w)),
        Part(col.BOX, (0.0, 2 * h + 0.3, w), (w, 0.3, 0.025), lean=draw(0, 0.2)),
    ]
    for x, z in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        parts.append(Part(col.CYLINDER, (x * w * 0.85, h, z * w * 0.85), (0.02, h, 0.02), material=1))
    return parts


def shelf(draw: Draw) -> list[Part]:
    """An open shelf with boards, or a closed cupboard."""
    w, h, d = draw(0.3, 0.8), draw(0.5, 1.1), draw(0.13, 0.25)
    return [
        Part(col.BOX, (w, h, 0.0), (0.02, h, d)),
        Part(col.BOX, (-w, h, 0.0), (0.02, h, d)),
        Part(col.BOX, (0.0, h * 0.7, 0.0), (w, 0.02, d)),
        Part(col.BOX, (0.0, h * 1.35, 0.0), (w, 0.02, d)),
        Part(col.BOX, (0.0, 2 * h, 0.0), (w, 0.02, d)),
        Part(col.BOX, (0.0, h * draw(0.3, 1.0), 0.05), (w * 0.95, h * draw(0.3, 1.0), d * draw(0.2, 0.9)), material=1),
    ]


def sofa(draw: Draw) -> list[Part]:
    """Seat, back, arms and cushions; a bed where it is low and long."""
    w, d = draw(0.4, 1.1), draw(0.35, 0.9)
    return [
        Part(col.BOX, (0.0, 0.2, 0.0), (w, 0.2, d)),
        Part(col.BOX, (0.0, 0.45, d), (w, 0.4, 0.12)),
        Part(col.BOX, (w, 0.32, 0.0), (0.1, 0.3, d)),
        Part(col.BOX, (-w, 0.32, 0.0), (0.1, 0.3, d)),
        Part(col.ELLIPSOID, (w * 0.5, 0.5, d * 0.5), (0.22, 0.18, 0.14), lean=0.3, material=1),
        Part(col.ELLIPSOID, (-w * 0.4, 0.45, 0.0), (0.24, 0.12, 0.24), material=2),
    ]


def lamp_post(draw: Draw) -> list[Part]:
    """A pole with an arm that hangs over."""
    h, reach = draw(1.5, 4.0), draw(0.3, 1.2)
    return [
        Part(col.CYLINDER, (0.0, h, 0.0), (0.06, h, 0.06)),
        Part(col.BOX, (reach, 2 * h, 0.0), (reach, 0.04, 0.04)),
        Part(col.ELLIPSOID, (2 * reach, 2 * h - 0.1, 0.0), (0.25, 0.1, 0.15), material=1),
        Part(col.BOX, (0.0, h * 1.2, 0.1), (0.4, 0.3, 0.02), material=2, shown=_chance(draw, 0.4)),
    ]


def fence(draw: Draw) -> list[Part]:
    """Posts and rails."""
    gap, h = draw(0.6, 1.4), draw(0.3, 0.7)
    parts = [Part(col.BOX, ((k - 1.5) * gap, h, 0.0), (0.05, h, 0.05)) for k in range(4)]
    parts.append(Part(col.BOX, (0.0, h * 1.7, 0.0), (gap * 2, 0.05, 0.02)))
    solid = _chance(draw, 0.4)
    parts.append(Part(col.BOX, (0.0, h, 0.0), (gap * 2, h * (0.08 + 0.85 * solid), 0.02), material=1))
    return parts


def stairs(draw: Draw) -> list[Part]:
    """Six steps up, away from the viewer."""
    w, rise, run = draw(0.6, 3.0), draw(0.07, 0.12), draw(0.12, 0.25)
    return [Part(col.BOX, (0.0, rise * (k + 1), run * (6 + k)), (w, rise * (k + 1), run * (6 - k))) for k in range(6)]


def rosette(draw: Draw) -> list[Part]:
    """A ring of petals around a stem: with neighbours of other radii a flower."""
    r, raise_, size = draw(0.1, 0.9), draw(0.2, 1.3), draw(0.14, 0.4)
    phase = draw(0, 6.28)
    parts = []
    for k in range(6):
        turn = phase + k * 1.0472 + draw(-0.15, 0.15)
        place = (r * torch.sin(turn), 0.9 - r * 0.5 * raise_, r * torch.cos(turn))
        half = (size * draw(0.55, 0.8), size * 0.13, size * draw(0.9, 1.5))
        parts.append(Part(col.ELLIPSOID, place, half, turn=turn, lean=raise_ + draw(-0.2, 0.2) - 0.6, material=0))
    return parts


def heap(draw: Draw) -> list[Part]:
    """Turned boxes, rods and eggs in a heap."""
    parts: list[Part] = []
    for kind in (col.BOX, col.ELLIPSOID, col.BOX, col.CYLINDER, col.ELLIPSOID, col.CONE):
        half = (draw(0.05, 0.5), draw(0.05, 0.5), draw(0.05, 0.5))
        place = (draw(-0.7, 0.7), draw(0.1, 1.1), draw(-0.7, 0.7))
        turn, lean, roll = draw(0, 6.28), draw(-1.5, 1.5), draw(-1.5, 1.5)
        parts.append(Part(kind, place, half, turn=turn, lean=lean, roll=roll, material=len(parts) % 3))
    return parts


def bridge(draw: Draw) -> list[Part]:
    """A deck on pillars: a gate, a porch, a bridge, an overhang."""
    w, h, d = draw(1.2, 5.0), draw(1.2, 2.5), draw(0.3, 2.0)
    pillar = draw(0.06, 0.4)
    parts = [
        Part(col.BOX, (0.0, 2 * h + 0.2, 0.0), (w * 1.1, 0.2, d * 1.1), material=1),
        Part(col.BOX, (0.0, 2 * h + 0.7, -d), (w * 1.1, 0.04, 0.04), material=2, shown=_chance(draw, 0.5)),
    ]
    for x, z in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        parts.append(Part(col.CYLINDER, (x * w, h, z * d), (pillar, h, pillar)))
    return parts


def picture(draw: Draw) -> list[Part]:
    """A framed picture, a poster, a screen or a window, flat and upright."""
    w, h, y = draw(0.2, 0.9), draw(0.2, 0.7), draw(0.9, 1.8)
    return [
        Part(col.BOX, (0.0, y, 0.0), (w, h, 0.025)),
        Part(col.BOX, (0.0, y, -0.01), (w * 0.88, h * 0.88, 0.03), material=1),
    ]


def rock(draw: Draw) -> list[Part]:
    """Squashed ellipsoids."""
    size = draw(0.15, 0.9)
    parts = []
    for _ in range(4):
        s = size * draw(0.5, 1.0)
        place = (size * draw(-1, 1), s * draw(0.0, 0.4), size * draw(-1, 1))
        turn, lean, roll = draw(0, 3), draw(-0.4, 0.4), draw(-0.4, 0.4)
        half = (s, s * draw(0.4, 0.9), s * draw(0.6, 1.0))
        parts.append(Part(col.ELLIPSOID, place, half, turn=turn, lean=lean, roll=roll))
    return parts


def hill(draw: Draw) -> list[Part]:
    """A ridge of wide, flat ellipsoids."""
    w, h = draw(8.0, 40.0), draw(1.5, 9.0)
    return [
        Part(col.ELLIPSOID, (w * draw(-1, 1), -0.2 * h, w * 0.3 * k), (w * draw(0.6, 1.2), h * draw(0.5, 1.3), w * 0.5))
        for k in range(3)
    ]


def pot(draw: Draw) -> list[Part]:
    """A pot with leaves."""
    r, h, leaves = draw(0.08, 0.3), draw(0.08, 0.3), draw(0.15, 0.5)
    parts = [Part(col.CYLINDER, (0.0, h, 0.0), (r, h, r), material=1)]
    for _ in range(5):
        turn, lean = draw(0, 6.28), draw(0.1, 1.1)
        aside = leaves * torch.sin(lean)
        place = (aside * torch.sin(turn), 2 * h + leaves * torch.cos(lean), aside * torch.cos(turn))
        parts.append(Part(col.ELLIPSOID, place, (leaves * 0.25, leaves, leaves * 0.06), turn=turn, lean=lean))
    return parts


def bottle(draw: Draw) -> list[Part]:
    """A bottle, vase, cup or jar."""
    r, h = draw(0.1, 0.3), draw(0.15, 0.6)
    neck = draw(0.2, 0.7)
    return [
        Part(col.CYLINDER, (0.0, h, 0.0), (r, h, r)),
        Part(col.ELLIPSOID, (0.0, 2 * h, 0.0), (r, r * 0.8, r)),
        Part(col.CYLINDER, (0.0, 2 * h + r, 0.0), (r * neck, r * 0.9, r * neck), material=1),
    ]


def wall(draw: Draw) -> list[Part]:
    """A free-standing wall, with or without a cap and pillars."""
    w, h = draw(1.0, 6.0), draw(0.3, 1.6)
    capped = _chance(draw, 0.5)
    return [
        Part(col.BOX, (0.0, h, 0.0), (w, h, 0.12)),
        Part(col.BOX, (0.0, 2 * h, 0.0), (w * 1.02, 0.06, 0.2), material=1, shown=capped),
        Part(col.BOX, (w, h * 1.1, 0.0), (0.25, h * 1.1, 0.25), material=1, shown=capped),
        Part(col.BOX, (-w, h * 1.1, 0.0), (0.25, h * 1.1, 0.25), material=1, shown=capped),
    ]


def grass(draw: Draw) -> list[Part]:
    """Thin blades and stems."""
    parts = []
    for _ in range(6):
        h, lean, turn = draw(0.1, 0.5), draw(-0.5, 0.5), draw(0, 6.28)
        parts.append(
            Part(col.ELLIPSOID, (draw(-0.4, 0.4), h * 0.9, draw(-0.4, 0.4)), (0.02, h, 0.008), turn=turn, lean=lean)
        )
    return parts


def _chance(draw: Draw, share: float) -> Tensor:
    return (draw(0, 1) < share).float()
