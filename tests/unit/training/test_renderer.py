"""The reference renderer against geometry done by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tests.unit.training.scene_tables import camera, primitive
from training.demo_weights import columns as col
from training.demo_weights.reference_renderer import render
from training.demo_weights.scenes import CAPACITY, sample_scenes

SIZE = 15
"""Odd, so that one ray runs along the optical axis."""


def test_a_wall_that_faces_the_camera_has_one_depth() -> None:
    _, inverse = render(primitive(col.BOX, (0, 0, 5), (50, 50, 1)), camera(), SIZE, SIZE)
    assert torch.allclose(inverse, torch.full_like(inverse, 1 / 4), rtol=1e-5)


def test_depth_of_the_ground_follows_the_row_and_the_sky_is_infinitely_far() -> None:
    ground = primitive(col.BOX, (0, -2, 0), (5000, 0.5, 5000))
    _, inverse = render(ground, camera(), SIZE, SIZE)
    rows = torch.arange(SIZE)
    slope = 0.5 * (SIZE - 2 * (rows + 0.5)) / SIZE  # rise per metre along the axis
    expected = (-slope / 1.5).clamp(min=0)  # the ground lies 1.5 m below the eye
    assert torch.allclose(inverse[0], expected[:, None].expand(SIZE, SIZE), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "nearest"),
    [(col.ELLIPSOID, 4.0), (col.CYLINDER, 4.0), (col.CONE, 4.5), (col.BOX, 4.0)],
)
def test_the_middle_ray_meets_each_shape_at_its_surface(kind: int, nearest: float) -> None:
    _, inverse = render(primitive(kind, (0, 0, 5), (1, 1, 1)), camera(), SIZE, SIZE)
    assert inverse[0, SIZE // 2, SIZE // 2].item() == pytest.approx(1 / nearest, rel=1e-4)


def test_a_sphere_covers_the_solid_angle_that_it_should() -> None:
    size = 151
    _, inverse = render(primitive(col.ELLIPSOID, (0, 0, 10), (2, 2, 2)), camera(), size, size)
    tangent = math.tan(math.asin(2 / 10))
    expected = math.pi * (tangent / 0.5 * size / 2) ** 2
    assert (inverse > 0).sum().item() == pytest.approx(expected, rel=0.02)


def test_the_nearer_of_two_things_is_seen_whatever_their_order() -> None:
    near, far = primitive(col.BOX, (0, 0, 3), (1, 1, 0.5)), primitive(col.BOX, (0, 0, 9), (50, 50, 1))
    first = render(torch.cat([near, far], 1), camera(), SIZE, SIZE)[1]
    second = render(torch.cat([far, near], 1), camera(), SIZE, SIZE)[1]
    assert torch.equal(first, second)
    assert first.max().item() == pytest.approx(1 / 2.5, rel=1e-4)
    assert first.min().item() == pytest.approx(1 / 8, rel=1e-4)


def test_what_stands_between_a_point_and_the_sun_darkens_it() -> None:
    wall = primitive(col.BOX, (0, 0, 6), (50, 50, 1))
    blind = primitive(col.BOX, (0, 3, 2), (50, 0.8, 0.1))  # out of view, between the wall and the sun
    lit = render(wall, camera(), SIZE, SIZE)[0]
    shaded = render(torch.cat([wall, blind], 1), camera(), SIZE, SIZE)[0]
    assert (shaded <= lit + 1e-6).all()
    assert shaded.min() < 0.8 * lit.min()


def test_holes_let_the_background_through() -> None:
    crown, wall = primitive(col.ELLIPSOID, (0, 0, 4), (2, 2, 1), cut=0.5), primitive(col.BOX, (0, 0, 9), (50, 50, 1))
    _, inverse = render(torch.cat([crown, wall], 1), camera(), 31, 31)
    share = (inverse > 1 / 7).float().mean().item()
    assert 0.1 < share < 0.95


def test_scenes_are_set_by_their_seed() -> None:
    one, same, other = (sample_scenes(6, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(one.primitives, same.primitives)
    assert torch.equal(one.scenes, same.scenes)
    assert not torch.equal(one.scenes, other.scenes)


def test_sampled_tables_are_complete_and_the_ground_comes_first() -> None:
    batch = sample_scenes(64, torch.Generator().manual_seed(3))
    count = batch.scenes[:, col.COUNT].long()
    assert batch.primitives.shape == (64, CAPACITY, col.PRIMITIVE_COLUMNS)
    assert batch.primitives.isfinite().all()
    assert batch.scenes.isfinite().all()
    used = torch.arange(CAPACITY)[None] < count[:, None]
    assert torch.equal(batch.primitives[..., col.RADIUS] > 0, used)
    assert (batch.primitives[:, 0, col.KIND] == col.BOX).all()
    assert (count > 3).all()


def test_a_sampled_scene_renders_to_finite_values() -> None:
    batch = sample_scenes(2, torch.Generator().manual_seed(4))
    rgb, inverse = render(batch.primitives[:, :40], batch.scenes, 12, 16)
    assert rgb.isfinite().all()
    assert (rgb >= 0).all()
    assert inverse.isfinite().all()
    assert (inverse >= 0).all()
