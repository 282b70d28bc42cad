"""Photographs of renderings stay in range and keep their depth."""

from __future__ import annotations

import torch

from training.demo_weights.photography import PerImage, jpeg, photograph


def rendering(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 5 * torch.rand(count, 3, 30, 44, generator=generator), torch.rand(count, 30, 44, generator=generator)


def test_values_are_displayable_and_depth_is_at_most_mirrored() -> None:
    radiance, inverse = rendering(12)
    rgb, kept = photograph(radiance, inverse, torch.Generator().manual_seed(1))
    assert rgb.shape == radiance.shape
    assert rgb.isfinite().all()
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    mirrored = [torch.equal(a, b.flip(1)) for a, b in zip(kept, inverse, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(kept, inverse, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert any(mirrored)
    assert any(same)


def test_the_same_seed_takes_the_same_photograph() -> None:
    one, same = (photograph(*rendering(3), torch.Generator().manual_seed(2))[0] for _ in range(2))
    assert torch.equal(one, same)


def test_a_black_rendering_is_no_division_by_zero() -> None:
    rgb, _ = photograph(torch.zeros(4, 3, 16, 16), torch.zeros(4, 16, 16), torch.Generator().manual_seed(3))
    assert rgb.isfinite().all()


def test_jpeg_keeps_flat_areas_and_removes_fine_ones() -> None:
    flat = torch.full((2, 3, 20, 27), 0.4)
    draw = PerImage(2, torch.Generator().manual_seed(4))
    assert torch.allclose(jpeg(flat, draw), flat, atol=0.06)
    fine = flat + 0.02 * torch.randn(flat.shape, generator=draw.generator)
    assert jpeg(fine, draw).std() < fine.std()
