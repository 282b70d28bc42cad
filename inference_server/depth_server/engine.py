"""The seam between the HTTP side and what runs the model: `Engine` is what requests know, `DepthModel` what is run.

`thread_engine.ThreadEngine` runs a model inside the process, `engine_pool.EnginePool` in processes of their own.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from depth_server.batch_queue import Forecast
from depth_server.batch_queue import retry_after as retry_after  # noqa: PLC0414 part of the seam
from depth_server.batching import Lane
from depth_server.preprocess import Size

CLOSE_TIMEOUT_SECONDS: Final = 5.0
"""How long `close` waits for a forward pass that runs; it cannot be interrupted."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What runs.

    Attributes:
        name: Name of the model, as `depth_anything_v2_vits14`.
        kind: Meaning of the output, as `relative_inverse`.
        device: Where it runs: `cpu` or `cuda`.
        precision: Type it computes in: `FP32`, `FP16` or `BF16`.
        align_corners: How its output is to be resized to the source.
        weights_sha256: Digest of the file of weights; empty where there is none.
    """

    name: str
    kind: str
    device: str
    precision: str
    align_corners: bool
    weights_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """Result of a forward pass.

    Attributes:
        depth: (N, H, W), fp32, at the size of the input.
        gpu_seconds: Time on the GPU, or None where there is none.
    """

    depth: NDArray[np.float32]
    gpu_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class EngineResult:
    """Depth of one request with the time it took.

    Attributes:
        depth: (H, W), fp32, finite.
        queue_seconds: Time between `submit` and the start of the forward pass.
        forward_seconds: Wall time of the forward pass.
        batch_size: Images of the forward pass.
    """

    depth: NDArray[np.float32]
    queue_seconds: float
    forward_seconds: float
    batch_size: int = 1


class DepthModel(Protocol):
    """A loaded model; called from one thread only."""

    @property
    def info(self) -> ModelInfo:
        """What this is."""

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        """Predict depth of a batch, (N, 3, H, W).

        Raises:
            EngineMemoryError: The device had no memory; the model is usable afterwards.
        """

    def warm_up(self) -> None:
        """Run what makes the first request as fast as the others.

        Raises:
            StartupError: The model does not work.
        """


@runtime_checkable
class PipelinedModel(Protocol):
    """A `DepthModel` on a device that computes while its thread goes on; the next batch is copied meanwhile."""

    def stage(self, images: Sequence[NDArray[np.float32]]) -> object:
        """Begin to copy images, each (3, H, W), to the device as one batch; returns what `launch` takes.

        Raises:
            EngineMemoryError: The device had no memory; the model is usable afterwards.
        """

    def launch(self, staged: object) -> Callable[[], Forwarded]:
        """Begin a forward pass.

        Returns:
            Waits for its end and gives its depth; it and `launch` raise what `DepthModel.forward` raises.
        """


class Engine(Protocol):
    """Runs forward passes for the routes; every method but `close` returns at once, and all may be called anywhere."""

    def start(self, on_loaded: Callable[[ModelInfo], None]) -> Future[ModelInfo]:
        """Load the model and warm it up.

        Args:
            on_loaded: Called from another thread when the model is loaded and its warm-up begins.

        Returns:
            Done when the engine takes images; fails with `StartupError` if the model cannot be had.
        """

    def submit(
        self, pixel_values: NDArray[np.float32], *, deadline: float | None = None, lane: Lane = Lane.INTERACTIVE
    ) -> Future[EngineResult]:
        """Enqueue an image; cancelling the future spares the forward pass if it has not begun.

        Args:
            pixel_values: (3, H, W).
            deadline: When nobody wants the depth any more, in seconds of `time.monotonic`.
            lane: Priority.

        Returns:
            The depth. Fails with `DeadlineExceededError` or `OverloadedError` if the image had to be dropped.

        Raises:
            OverloadedError: The queue is full.
            DeadlineExceededError: The deadline cannot be met.
            EngineStoppedError: The engine crashed or was closed.
        """

    def forecast(self, size: Size, lane: Lane = Lane.INTERACTIVE) -> Forecast:
        """Predict for an image of this size that would be submitted now."""

    def close(self, reason: str) -> None:
        """Fail what is pending with `EngineStoppedError` and stop; the first call waits, bounded, for what runs."""

    @property
    def expected_wait_seconds(self) -> float:
        """Prediction of the time until an image of the reference size that was submitted now would start."""

    @property
    def is_running(self) -> bool:
        """Whether the engine still executes something that the end of this process would tear."""

    @property
    def replicas(self) -> int:
        """Models side by side, each with a queue of its own."""

    @property
    def waiting(self) -> int:
        """Images that wait for a forward pass."""

    @property
    def images_finished(self) -> int:
        """Images whose forward pass succeeded."""

    def busy_seconds(self) -> float:
        """Wall time with a forward pass running, the running one included; with several GPUs the mean of them."""

    def gpu_busy_seconds(self) -> float | None:
        """Time on the GPU, with several GPUs the mean of them; None if there is none."""

    def current_forward_seconds(self) -> float:
        """Age of the running forward pass, of several the oldest; 0 if none runs."""
