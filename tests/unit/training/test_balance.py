"""Balancing keeps the picture and tames its activations."""

from __future__ import annotations

import torch

from training.demo_weights.balance import OUTPUT_TARGET, TARGET, balanced, greatest_activations
from training.demo_weights.network import DepthAnythingTiny


def test_the_output_changes_by_a_power_of_two_only() -> None:
    torch.manual_seed(0)
    network = DepthAnythingTiny().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith("depth_head.scratch") and name.endswith("weight"):
                parameter.mul_(7.0)  # as an unanchored training leaves it
    pixels = [torch.rand(2, 3, 42, 56), torch.rand(1, 3, 28, 28)]
    before = network(pixels[0]).detach()
    found = greatest_activations(network, pixels)
    assert max(found.values()) > 65504
    network.load_state_dict(balanced(network.state_dict(), found), strict=True)
    after = network(pixels[0]).detach()
    factor = (after.double() * before.double()).sum() / before.double().square().sum()
    assert torch.log2(factor).item() == round(torch.log2(factor).item(), 4)
    assert torch.allclose(after.double(), before.double() * factor, rtol=1e-4, atol=1e-5)
    peaks = greatest_activations(network, pixels)
    assert max(peaks.values()) <= TARGET * 1.001
    assert peaks["output"] <= OUTPUT_TARGET * 1.001


def test_nothing_is_left_hooked_into_the_network() -> None:
    network = DepthAnythingTiny().eval()
    greatest_activations(network, [torch.rand(1, 3, 28, 28)])
    assert all(not module._forward_hooks for module in network.modules())
