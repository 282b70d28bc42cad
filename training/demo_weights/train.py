"""Trains the bundled demo weights: `python -m training.demo_weights.train --minutes 9 --out DIR --seed 1`."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.demo_weights.kinds import FINE_KIND_SHARES, KIND_SHARES
from training.demo_weights.loss import affine_invariant_loss, scale_anchor
from training.demo_weights.network import DepthAnythingTiny, exported, normalise
from training.demo_weights.optimizer import MuonAdamW
from training.demo_weights.stream import CHUNK, BatchStream

if TYPE_CHECKING:
    from collections.abc import Callable

FILE_NAME: Final = "depth_anything_demo_vitt14.safetensors"
"""Name of the result."""

LOG_NAME: Final = "training_log.csv"
"""Name of the log."""

GRADIENT_NORM: Final = 1.0
"""Gradients are scaled down to this norm."""

EMA_HORIZON: Final = 400
"""Steps over which the averaged weights look back, once as many have been made."""

WARM_UP_STEPS: Final = 300
"""Steps until the learning rate is reached."""

FINE_WARM_UP_STEPS: Final = 80
"""The same while a training is continued: only the optimiser's moments are new."""

LOG_EVERY: Final = 100
"""Steps per line of the log."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of a batch: images, rows and columns."""

    count: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Stage:
    """Part of the training with its sizes, which take turns.

    Attributes:
        until: Progress, 0 to 1, at which the stage ends.
        shapes: Sizes of batches; each has about as many pixels.
    """

    until: float
    shapes: tuple[Shape, ...]


RECIPE: Final = (
    Stage(0.6, (Shape(64, 252, 336), Shape(64, 336, 252))),
    Stage(1.0, (Shape(16, 518, 686), Shape(20, 518, 518))),
)
"""Small images for most of the time, the server's size at the end."""

FINE: Final = (Stage(1.0, (Shape(16, 518, 686),)),)
"""Only the server's usual size: continues a finished training."""

TRIAL: Final = (Stage(1.0, (Shape(2, 42, 56),)),)
"""For a processor without a GPU: shows that the program runs, trains nothing of use."""


TRIAL_CHUNK: Final = 8
"""Scenes drawn at once without a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a training is made of.

    Attributes:
        minutes: Time for training proper; ignored where `steps` is set.
        steps: Number of steps, or None.
        seed: Seed of weights and scenes.
        stages: Sizes over time.
        learning_rate: Peak.
        warm_up_steps: Steps until it is reached.
        weight_decay: Decoupled.
        kind_shares: How often each kind of scene is drawn.
        samples: Rays per side of a pixel.
        use_muon: Muon for the transformer's matrices.
        compiled: Compile the network.
        captured: Replay forward and backward pass as CUDA graphs.
    """

    minutes: float
    steps: int | None = None
    seed: int = 1
    stages: tuple[Stage, ...] = RECIPE
    learning_rate: float = 2e-3
    warm_up_steps: int = WARM_UP_STEPS
    weight_decay: float = 0.03
    kind_shares: tuple[float, ...] = KIND_SHARES
    samples: int = 2
    use_muon: bool = True
    compiled: bool = False
    captured: bool = True


def learning_rate_at(step: int, progress: float, peak: float, warm_up_steps: int = WARM_UP_STEPS) -> float:
    """Linear warm-up, then a cosine to zero over the progress of 0 to 1."""
    return peak * min(1.0, (step + 1) / warm_up_steps) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it without annotations


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch rendered ahead."""

    shape: Shape
    rgb: Tensor
    inverse: Tensor


class Trainer:
    """Holds the network, its average and its optimiser, and makes steps."""

    def __init__(self, settings: Settings, device: torch.device, start: dict[str, Tensor] | None) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.device = settings, device
        self.network = DepthAnythingTiny().to(device).to(memory_format=torch.channels_last)
        if start is not None:
            self.network.load_state_dict({key: value.float() for key, value in start.items()}, strict=True)
        present = self.network.state_dict()
        self.average = {key: value.detach().clone() for key, value in present.items()}
        self._present = [present[key] for key in self.average]
        self.parameters = list(self.network.parameters())
        self.optimizer = MuonAdamW(self.network, settings.weight_decay, use_muon=settings.use_muon)
        chunk = CHUNK if device.type == "cuda" else TRIAL_CHUNK
        self.stream = BatchStream(settings.seed, device, chunk, settings.kind_shares)
        self._forward = torch.compile(self.network, dynamic=False) if settings.compiled else self.network
        self._side = _stream(device) if device.type == "cuda" else None
        self._prepared: Prepared | None = None
        self._captured: dict[Shape, Callable[[Tensor, Tensor], Tensor]] = {}

    def backward(self, rgb: Tensor, inverse: Tensor) -> Tensor:
        """Gradients of the loss of one batch; returns the loss, detached."""
        pixel_values = normalise(rgb).contiguous(memory_format=torch.channels_last)
        # Without its cache, autocast works inside a CUDA graph.
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            predicted = self._forward(pixel_values)
        predicted = predicted.float()
        loss = affine_invariant_loss(predicted, inverse)
        torch.autograd.backward(loss + scale_anchor(predicted))
        return loss.detach()

    def capture(self, shape: Shape) -> Callable[[Tensor, Tensor], Tensor]:
        """Record forward and backward pass for one shape as a CUDA graph; gradients live at fixed addresses."""
        rgb = torch.rand(shape.count, 3, shape.height, shape.width, device=self.device)
        inverse = torch.rand(shape.count, shape.height, shape.width, device=self.device)
        side = _stream(self.device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._zero_gradients()
                self.backward(rgb, inverse)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._zero_gradients()
            loss = self.backward(rgb, inverse)

        def replay(new_rgb: Tensor, new_inverse: Tensor) -> Tensor:
            rgb.copy_(new_rgb)
            inverse.copy_(new_inverse)
            graph.replay()
            return loss.clone()

        return replay

    def step(self, shape: Shape, learning_rate: float, following: Shape) -> Tensor:
        """Compute gradients of one batch and update the weights.

        Args:
            shape: Size of the batch.
            learning_rate: Of this step.
            following: Size of the next batch, which is rendered meanwhile.

        Returns:
            The loss.
        """
        rgb, inverse = self._take(shape)
        if self.settings.captured and self.device.type == "cuda":
            if shape not in self._captured:
                self._captured[shape] = self.capture(shape)
            loss = self._captured[shape](rgb, inverse)
        else:
            self._zero_gradients()
            loss = self.backward(rgb, inverse)
        if self._side is not None:
            self._prepared = self._prepare(following)
        torch.nn.utils.clip_grad_norm_(self.parameters, GRADIENT_NORM)
        self.optimizer.step(learning_rate)
        return loss

    def _prepare(self, shape: Shape) -> Prepared:
        """Render a batch on a stream of its own: it needs arithmetic while the network waits for memory."""
        with torch.cuda.stream(self._side):
            rgb, inverse = self.stream.batch(shape.count, shape.height, shape.width, self.settings.samples)
        return Prepared(shape, rgb, inverse)

    def _take(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """The batch prepared for this shape, or a new one."""
        if self._side is None:
            return self.stream.batch(shape.count, shape.height, shape.width, self.settings.samples)
        # Scenes live on the side stream, so that every batch is drawn there.
        prepared = self._prepared
        if prepared is None or prepared.shape != shape:
            prepared = self._prepare(shape)
        self._prepared = None
        present = torch.cuda.current_stream()
        present.wait_stream(self._side)
        prepared.rgb.record_stream(present)
        prepared.inverse.record_stream(present)
        return prepared.rgb, prepared.inverse

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the averaged weights towards the present ones."""
        weight = max(1 / EMA_HORIZON, 1 / (step + 1))
        torch._foreach_lerp_(list(self.average.values()), self._present, weight)

    def _zero_gradients(self) -> None:
        """Zero in place: graphs and optimiser hold the addresses."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad.zero_()


@dataclass(frozen=True, slots=True)
class LogRow:
    """A line of the training log."""

    step: int
    seconds: float
    images: int
    loss: float
    learning_rate: float
    size: str

    def csv(self) -> str:
        """Comma-separated values."""
        return f"{self.step},{self.seconds:.1f},{self.images},{self.loss:.4f},{self.learning_rate:.6f},{self.size}"


def fit(trainer: Trainer, report: Callable[[LogRow], None]) -> tuple[int, int, float]:
    """Train until time or steps are used up.

    Args:
        trainer: What is trained.
        report: Receives a row every `LOG_EVERY` steps.

    Returns:
        Steps, images and seconds.
    """
    settings = trainer.settings
    started = time.monotonic()
    losses: list[Tensor] = []
    step = images = 0
    while True:
        seconds = time.monotonic() - started
        progress = step / settings.steps if settings.steps else seconds / (60 * settings.minutes)
        if progress >= 1:
            return step, images, seconds
        stage = next(stage for stage in settings.stages if progress < stage.until)
        shape = stage.shapes[step % len(stage.shapes)]
        rate = learning_rate_at(step, progress, settings.learning_rate, settings.warm_up_steps)
        following = stage.shapes[(step + 1) % len(stage.shapes)]
        losses.append(trainer.step(shape, rate, following))
        trainer.update_average(step)
        step += 1
        images += shape.count
        if step % LOG_EVERY == 0:
            loss = torch.stack(losses).mean().item()
            losses.clear()
            report(LogRow(step, time.monotonic() - started, images, loss, rate, f"{shape.height}x{shape.width}"))


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.demo_weights.train", description=__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="time for training proper")
    parser.add_argument("--steps", type=int, help="train this many steps instead of a time")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and log")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--init", type=Path, help="continue from these weights, with the server's image sizes only")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak")
    parser.add_argument("--no-muon", action="store_true", help="AdamW for all parameters")
    parser.add_argument("--compile", action="store_true", help="compile the network with torch.compile")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Train and write the weights, the log and a summary."""
    options = arguments(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stages = TRIAL if device.type == "cpu" else FINE if options.init else RECIPE
    settings = Settings(
        minutes=options.minutes,
        steps=options.steps,
        seed=options.seed,
        stages=stages,
        learning_rate=options.learning_rate,
        warm_up_steps=FINE_WARM_UP_STEPS if options.init else WARM_UP_STEPS,
        kind_shares=FINE_KIND_SHARES if options.init else KIND_SHARES,
        samples=2 if device.type == "cuda" else 1,
        use_muon=not options.no_muon,
        compiled=options.compile,
    )
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    # Trying convolution algorithms takes some ten seconds per size, which a short continuation does not win back.
    torch.backends.cudnn.benchmark = options.init is None
    trainer = Trainer(settings, device, load_file(options.init) if options.init else None)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / LOG_NAME).open("w") as log:
        log.write("step,seconds,images,loss,learning_rate,last_size\n")

        def report(row: LogRow) -> None:
            log.write(row.csv() + "\n")
            log.flush()
            if row.step % (5 * LOG_EVERY) == 0:
                sys.stdout.write(row.csv() + "\n")
                sys.stdout.flush()

        steps, images, seconds = fit(trainer, report)
    target = options.out / FILE_NAME
    save_file(exported(trainer.average), target, metadata={"license": "Apache-2.0", "format": "pt"})
    summary = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "arguments": argv,
        "steps": steps,
        "images": images,
        "seconds": round(seconds, 1),
        "bytes": target.stat().st_size,
        "sha256": digest(target),
    }
    (options.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
