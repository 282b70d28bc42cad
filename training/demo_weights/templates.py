"""Which objects there are, what they are made of and where they are found."""

from __future__ import annotations

from typing import Final

from training.demo_weights import objects
from training.demo_weights.materials import Theme

SLOTS: Final = 26
"""Objects per scene, at most."""

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


def template_numbers(*names: str) -> list[int]:
    """Rows of `TEMPLATES` by the names of their functions."""
    return [number for number, row in enumerate(TEMPLATES) if row[0].__name__ in names]
