"""Rescales the head's layers so that activations fit into fp16: `python -m training.demo_weights.balance IN OUT`.

The affine-invariant loss does not see the scale of the output, so training may let it grow without bound. Convolution,
ReLU, sums and bilinear resizing are homogeneous: scaling each layer by a positive factor, with its bias in step,
changes nothing but the scale of the output. All factors are powers of two, so weights lose no bit.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.demo_weights import pictures
from training.demo_weights.network import DepthAnythingTiny, exported, normalise

TARGET: Final = 256.0
"""Greatest activation of a layer after balancing; fp16 reaches 65504."""

OUTPUT_TARGET: Final = 4.0
"""The same for the depth map."""

Scale = Callable[[str, float, float], None]
"""Scales the weight and the bias of a layer, by its name."""

HEAD: Final = "depth_head."
"""Prefix of all keys that change."""


def greatest_activations(network: nn.Module, pixel_values: list[Tensor]) -> dict[str, float]:
    """Greatest absolute output of every layer of the head over some images.

    Args:
        network: The network, in fp32.
        pixel_values: (B, 3, H, W) normalised batches of any sizes.
    """
    found: dict[str, float] = {}

    def remember(name: str, output: Tensor) -> None:
        found[name] = max(found.get(name, 0.0), float(output.abs().max()))

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: remember(name, output))
        for name, module in network.named_modules()
        if name.startswith(HEAD) and not any(module.children())
    ]
    with torch.no_grad():
        for batch in pixel_values:
            remember("output", network(batch))
    for handle in handles:
        handle.remove()
    return found


def power_of_two(value: float, target: float) -> float:
    """The power of two that brings `value` to at most `target` and more than half of it; 1 for 0."""
    return 2.0 ** math.floor(math.log2(target / value)) if value > 0 else 1.0


def balanced(state: dict[str, Tensor], found: dict[str, float]) -> dict[str, Tensor]:
    """Scale the head's weights.

    Args:
        state: State dict of `DepthAnythingTiny`.
        found: From `greatest_activations` of the same weights.

    Returns:
        A state dict whose output is that of `state` times a power of two.
    """
    out = {key: value.clone() for key, value in state.items()}
    scratch = HEAD + "scratch."

    def scale(layer: str, weight: float, bias: float) -> None:
        out[f"{layer}.weight"] *= weight
        if f"{layer}.bias" in out:
            out[f"{layer}.bias"] *= bias

    def stage_scale(level: int) -> float:
        inputs = (
            f"{scratch}layer{level}_rn",
            f"{scratch}refinenet{level}.resConf",
            f"{scratch}refinenet{level + 1}.out",
        )
        return power_of_two(max(peak for name, peak in found.items() if name.startswith(inputs)), TARGET)

    tail = [f"{scratch}output_conv1", f"{scratch}output_conv2.0"]
    after = power_of_two(found[f"{scratch}refinenet1.out_conv"], TARGET)
    stages = {level: stage_scale(level) for level in (1, 2, 3, 4)} | {0: after}
    for level in (1, 2, 3, 4):
        _spread(scale, level, stages[level])
        for unit in ("resConfUnit1", "resConfUnit2"):
            for conv in ("conv1", "conv2"):
                key = f"{scratch}refinenet{level}.{unit}.{conv}"
                if f"{key}.weight" in out:
                    scale(key, 1.0, stages[level])
        scale(f"{scratch}refinenet{level}.out_conv", stages[level - 1] / stages[level], stages[level - 1])
    before = after
    for layer in tail:
        after = power_of_two(found[layer], TARGET)
        scale(layer, after / before, after)
        before = after
    after = power_of_two(found["output"], OUTPUT_TARGET)
    scale(f"{scratch}output_conv2.2", after / before, after)
    return out


def _spread(scale: Scale, level: int, factor: float) -> None:
    """Share a stage's factor among the layers that lead to it, so that none of them underflows fp16."""
    layers = [f"{HEAD}projects.{level - 1}"]
    if level != 3:
        layers.append(f"{HEAD}resize_layers.{level - 1}")
    layers.append(f"{HEAD}scratch.layer{level}_rn")
    exponent, reached = round(math.log2(factor)), 0
    for number, layer in enumerate(layers, start=1):
        until = exponent * number // len(layers)
        scale(layer, 2.0 ** (until - reached), 2.0**until)
        reached = until


def main(argv: list[str]) -> None:
    """Balance a file by scikit-learn's photographs."""
    parser = argparse.ArgumentParser(prog="python -m training.demo_weights.balance", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(argv)
    network = DepthAnythingTiny().eval()
    network.load_state_dict({key: value.float() for key, value in load_file(options.source).items()}, strict=True)
    images = [normalise(pictures.to_tensor(image)) for image in pictures.load_photographs(None).values()]
    sizes = [pictures.network_size(image.shape[2], image.shape[3]) for image in images]
    batches = [
        nn.functional.interpolate(image, size=size, mode="bilinear", antialias=True)
        for image, size in zip(images, sizes, strict=True)
    ]
    found = greatest_activations(network, batches)
    state = balanced(network.state_dict(), found)
    network.load_state_dict(state, strict=True)
    peak = max(greatest_activations(network, batches).values())
    save_file(exported(state), options.target, metadata={"license": "Apache-2.0", "format": "pt"})
    sys.stdout.write(f"greatest activation of the head: {max(found.values()):.3g} before, {peak:.3g} after\n")


if __name__ == "__main__":
    main(sys.argv[1:])
