"""Measures weights: `python -m training.demo_weights.evaluate --weights FILE [--out DIR] [--photographs DIR]`.

Held-out scenes are drawn on the CPU from a seed that training does not use, so they are the same on every machine.
Without a GPU the reference renderer draws them, which takes seconds per image: take few, and small ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from training.demo_weights import pictures
from training.demo_weights.kinds import SceneKind
from training.demo_weights.metrics import Accuracy, accuracy
from training.demo_weights.network import DepthAnythingTiny, normalise
from training.demo_weights.photography import photograph
from training.demo_weights.scenes import sample_scenes
from training.demo_weights.stream import render

if TYPE_CHECKING:
    from training.demo_weights.tables import SceneBatch

HELD_OUT_SEED: Final = 987_654_321
"""Seed of the evaluation's scenes."""

SHOWN: Final = 12
"""Held-out scenes in the picture."""

BATCH: Final = 16
"""Images per forward pass."""


def load_network(path: Path, device: torch.device) -> DepthAnythingTiny:
    """Load weights strictly, to compute in fp32."""
    network = DepthAnythingTiny()
    network.load_state_dict({key: value.float() for key, value in load_file(path).items()}, strict=True)
    return network.to(device).eval()


@torch.no_grad()
def held_out(
    network: DepthAnythingTiny, scenes: SceneBatch, size: tuple[int, int], generator: torch.Generator
) -> tuple[Accuracy, list[tuple[Tensor, Tensor, Tensor]]]:
    """Predict every scene.

    Args:
        network: The network on its device.
        scenes: On the same device.
        size: Height and width of the images.
        generator: For lens and noise.

    Returns:
        Figures per scene, and (RGB, truth, prediction) of the first `SHOWN` scenes.
    """
    samples = 2 if scenes.primitives.is_cuda else 1
    figures: list[Accuracy] = []
    shown: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, scenes.scenes.shape[0], BATCH):
        radiance, inverse = render(scenes[start : start + BATCH], *size, samples)
        rgb, inverse = photograph(radiance, inverse, generator)
        predicted = network(normalise(rgb)).float()
        figures.append(accuracy(predicted, inverse))
        if start < SHOWN:
            shown += list(zip(rgb.cpu(), inverse.cpu(), predicted.cpu(), strict=True))
    merged = Accuracy(torch.cat([f.abs_rel for f in figures]).cpu(), torch.cat([f.delta1 for f in figures]).cpu())
    return merged, shown[:SHOWN]


def summarise(figures: Accuracy, kinds: Tensor) -> dict[str, dict[str, float]]:
    """Means over all scenes and per kind; median too, because single scenes that go wrong dominate the mean."""
    groups = {"all": torch.ones_like(kinds, dtype=torch.bool)} | {k.name.lower(): kinds == k for k in SceneKind}
    return {
        name: {
            "scenes": int(chosen.sum()),
            "abs_rel": round(figures.abs_rel[chosen].mean().item(), 4),
            "abs_rel_median": round(figures.abs_rel[chosen].median().item(), 4),
            "delta1": round(figures.delta1[chosen].mean().item(), 4),
            "delta1_median": round(figures.delta1[chosen].median().item(), 4),
        }
        for name, chosen in groups.items()
        if chosen.any()
    }


def table(result: dict[str, dict[str, float]]) -> str:
    """The summary as text."""
    lines = [f"{'scenes of':<10} {'n':>4} {'AbsRel':>7} {'median':>7} {'delta1':>7} {'median':>7}"]
    lines += [
        f"{name:<10} {row['scenes']:>4} {row['abs_rel']:>7.3f} {row['abs_rel_median']:>7.3f}"
        f" {row['delta1']:>7.3f} {row['delta1_median']:>7.3f}"
        for name, row in result.items()
    ]
    return "\n".join(lines)


def scene_sheet(shown: list[tuple[Tensor, Tensor, Tensor]]) -> pictures.Image:
    """Rows of photograph, true and predicted inverse depth, two scenes a row."""
    strips = [
        np.hstack([pictures.to_image(rgb), pictures.colourise(truth), pictures.colourise(predicted)])
        for rgb, truth, predicted in shown
    ]
    return np.vstack([np.hstack(strips[k : k + 2]) for k in range(0, len(strips) - 1, 2)])


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.demo_weights.evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/results/demo_weights"), help="folder for the results")
    parser.add_argument("--scenes", type=int, default=512, help="held-out scenes; 0 for photographs only")
    parser.add_argument("--height", type=int, default=518)
    parser.add_argument("--width", type=int, default=686)
    parser.add_argument("--photographs", type=Path, help="folder of further photographs")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure, print a table, write JSON and pictures."""
    options = arguments(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_network(options.weights, device)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.scenes:
        scenes = sample_scenes(options.scenes, torch.Generator().manual_seed(HELD_OUT_SEED))
        generator = torch.Generator(device).manual_seed(HELD_OUT_SEED)
        figures, shown = held_out(network, scenes.to(device), (options.height, options.width), generator)
        result = summarise(figures, scenes.kinds)
        sys.stdout.write(table(result) + "\n")
        report = {
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "seed": HELD_OUT_SEED,
            "height": options.height,
            "width": options.width,
            "accuracy": result,
        }
        (options.out / f"evaluation_{options.height}x{options.width}.json").write_text(
            json.dumps(report, indent=2) + "\n"
        )
        if len(shown) > 1:
            pictures.write(options.out / "held_out_scenes.jpg", scene_sheet(shown))
    for name, image in pictures.load_photographs(options.photographs).items():
        inverse = pictures.predict(network, image, device)
        pictures.write(options.out / f"photograph_{name}.jpg", pictures.side_by_side(image, inverse))
    sys.stdout.write(f"results in {options.out}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
