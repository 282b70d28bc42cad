"""The loss and the metrics do not see what the network cannot know."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.demo_weights.loss import affine_invariant_loss, least_squares, scale_anchor, standardise
from training.demo_weights.metrics import accuracy

SEEDS = st.integers(0, 2**31)
SCALES = st.floats(0.05, 20.0)
SHIFTS = st.floats(-5.0, 5.0)


def images(seed: int, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 16, 20, generator=generator), torch.rand(count, 16, 20, generator=generator) + 0.02


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, scale=SCALES, shift=SHIFTS)
def test_scale_and_shift_of_the_prediction_change_nothing(seed: int, scale: float, shift: float) -> None:
    predicted, truth = images(seed)
    loss = affine_invariant_loss(predicted, truth)
    assert affine_invariant_loss(predicted * scale + shift, truth).item() == pytest.approx(loss.item(), rel=5e-3)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, scale=SCALES, shift=SHIFTS)
def test_the_truth_moved_and_scaled_is_a_perfect_prediction(seed: int, scale: float, shift: float) -> None:
    _, truth = images(seed)
    assert affine_invariant_loss(truth * scale + shift, truth).item() == pytest.approx(0, abs=5e-3)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, scale=SCALES, shift=SHIFTS)
def test_least_squares_finds_scale_and_shift(seed: int, scale: float, shift: float) -> None:
    _, truth = images(seed)
    found_scale, found_shift = least_squares(truth, truth * scale + shift, torch.ones_like(truth))
    assert found_scale.flatten().tolist() == pytest.approx([scale] * 2, rel=1e-2)
    assert found_shift.flatten().tolist() == pytest.approx([shift] * 2, abs=2e-2)


def test_a_worse_prediction_costs_more() -> None:
    wrong, truth = images(1)
    slightly = truth + 0.05 * (wrong - 0.5)
    very = truth + 0.5 * (wrong - 0.5)
    assert 0 < affine_invariant_loss(slightly, truth) < affine_invariant_loss(very, truth)


def test_an_inverted_prediction_is_no_match() -> None:
    _, truth = images(2)
    assert affine_invariant_loss(-truth, truth) > 1


def test_a_constant_prediction_gives_finite_gradients() -> None:
    _, truth = images(3)
    predicted = torch.full_like(truth, 0.5, requires_grad=True)
    torch.autograd.backward(affine_invariant_loss(predicted, truth))
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_standardised_images_have_median_zero_and_deviation_one() -> None:
    standard = standardise(images(4)[1] * 7 - 3)
    assert standard.flatten(1).median(1).values.tolist() == pytest.approx([0, 0], abs=1e-5)
    assert standard.abs().mean((1, 2)).tolist() == pytest.approx([1, 1], rel=1e-4)


def test_metrics_are_perfect_for_the_truth_up_to_scale_and_shift() -> None:
    _, truth = images(5)
    figures = accuracy(truth * 3 - 1, truth)
    assert figures.abs_rel.tolist() == pytest.approx([0, 0], abs=1e-5)
    assert figures.delta1.tolist() == [1, 1]


def test_metrics_by_hand() -> None:
    truth = torch.tensor([[[1.0, 0.5, 0.25, 0.0]]])  # 1, 2 and 4 m and the sky
    predicted = torch.tensor([[[1.0, 0.5, 0.25, 9.0]]])  # the sky does not count
    assert accuracy(predicted, truth).abs_rel.item() == pytest.approx(0, abs=1e-6)
    # The best line through (1, 1), (0, .5), (0, .25) gives .375 for both: 2.667 m for 2 m and for 4 m.
    figures = accuracy(torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), truth)
    assert figures.abs_rel.item() == pytest.approx((0 + 2 / 3 / 2 + 4 / 3 / 4) / 3, rel=1e-4)
    assert figures.delta1.item() == pytest.approx(1 / 3)


def test_the_anchor_pulls_a_large_scale_down_and_a_small_one_up() -> None:
    predicted, _ = images(6)
    for scale, sign in ((1e6, 1), (1e-3, -1)):
        factor = torch.tensor(scale, requires_grad=True)
        torch.autograd.backward(scale_anchor(predicted * factor))
        assert factor.grad is not None
        assert factor.grad.sign() == sign
