"""Tables of hand-made scenes."""

from __future__ import annotations

import torch
from torch import Tensor

from training.demo_weights import columns as col
from training.demo_weights.tables import assemble


def camera(count: int = 1) -> Tensor:
    """A camera at the origin that looks along +z with a tangent of 0.5, under a white sun behind it."""
    scenes = torch.zeros(count, col.SCENE_COLUMNS)
    scenes[:, col.TANGENT] = 0.5
    scenes[:, col.ROTATION : col.ROTATION + 9] = torch.eye(3).flatten()
    scenes[:, col.LIGHT : col.LIGHT + 3] = torch.tensor([0.0, 0.6, -0.8])
    scenes[:, col.LIGHT_COLOUR : col.LIGHT_COLOUR + 3] = 1.0
    scenes[:, col.AMBIENT_UP : col.AMBIENT_UP + 3] = 0.5
    scenes[:, col.HORIZON : col.HORIZON + 3] = 0.8
    scenes[:, col.LAMP_REACH] = 1.0
    scenes[:, col.OCCLUSION_RANGE] = 0.5
    return scenes


def primitive(kind: int, centre: tuple[float, ...], half: tuple[float, ...], cut: float = 0.0) -> Tensor:
    """One grey primitive that is not turned, (1, 1, PRIMITIVE_COLUMNS)."""
    looks = torch.full((1, 1, 16), 0.5)
    looks[..., 6:] = 0.0
    looks[..., 7] = 1.0
    holes = torch.tensor([[[cut, 3.0]]])
    return assemble(
        torch.tensor([[float(kind)]]), torch.tensor([[centre]]), torch.tensor([[half]]), torch.eye(3), looks, holes
    )
