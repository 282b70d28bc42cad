"""Kinds of scenes."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import torch
from torch import Tensor


class SceneKind(IntEnum):
    """What a scene shows; the index of every table by kind."""

    PARK = 0
    STREET = 1
    INDOOR = 2
    TABLETOP = 3
    CLUTTER = 4
    FOREST = 5
    FLOWER = 6
    PLAZA = 7


KIND_SHARES: Final = (0.22, 0.16, 0.24, 0.09, 0.08, 0.08, 0.06, 0.07)
"""How often each kind is drawn."""

FINE_KIND_SHARES: Final = (0.16, 0.13, 0.22, 0.13, 0.06, 0.05, 0.18, 0.07)
"""The same while a training is continued: more of what is near, which photographs showed to be the weak side."""


def is_kind(kinds: Tensor, *which: SceneKind) -> Tensor:
    """Tell which of `kinds` are among the named ones."""
    return torch.isin(kinds, torch.tensor(which, device=kinds.device))
