"""Runs forward passes: the seam between the HTTP side and the model, and its implementation inside the process.

`Engine` is what the routes know. `ThreadEngine` gives one model to one worker thread behind a bounded queue: the thread
loads the model, warms it up and runs one image after the other. It knows no torch; what it runs is a `DepthModel`.

Invariants of `ThreadEngine`:

- Every future that `submit` returned is resolved: with depth, with an error, or by its own cancellation. If the worker
  dies, all pending ones fail and `on_crash` is called.
- A request whose future was cancelled costs no forward pass.
"""

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from depth_server.errors import (
    EngineMemoryError,
    EngineStoppedError,
    ForwardError,
    NonFiniteDepthError,
    OverloadedError,
)

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_SECONDS: Final = 5.0
"""How long `close` waits for a forward pass that runs; it cannot be interrupted."""

FORWARD_SMOOTHING: Final = 0.2
"""Weight of the newest forward pass in the mean that `Retry-After` is computed from."""

MAX_RETRY_AFTER_SECONDS: Final = 60
"""Longest `Retry-After`; replicas come and go faster than that."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What runs.

    Attributes:
        name: Name of the model, as `depth_anything_v2_vits14`.
        kind: Meaning of the output, as `relative_inverse`.
        device: Where it runs: `cpu` or `cuda`.
        precision: Type it computes in: `FP32`, `FP16` or `BF16`.
        align_corners: How its output is to be resized to the source.
    """

    name: str
    kind: str
    device: str
    precision: str
    align_corners: bool


@dataclass(frozen=True, slots=True)
class Forwarded:
    """Result of a forward pass.

    Attributes:
        depth: (H, W), fp32, at the size of the input.
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
    """

    depth: NDArray[np.float32]
    queue_seconds: float
    forward_seconds: float


class DepthModel(Protocol):
    """A loaded model; called from one thread only."""

    @property
    def info(self) -> ModelInfo:
        """What this is."""

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        """Predict depth of (3, H, W).

        Raises:
            EngineMemoryError: The device had no memory; the model is usable afterwards.
        """

    def warm_up(self) -> None:
        """Run what makes the first request as fast as the others.

        Raises:
            StartupError: The model does not work.
        """


class Engine(Protocol):
    """Runs forward passes for the routes; every method but `close` returns at once."""

    def start(self, on_loaded: Callable[[ModelInfo], None]) -> Future[ModelInfo]:
        """Load the model and warm it up.

        Args:
            on_loaded: Called from another thread when the model is loaded and its warm-up begins.

        Returns:
            Done when the engine takes images; fails with `StartupError` if the model cannot be had.
        """

    def submit(self, pixel_values: NDArray[np.float32]) -> Future[EngineResult]:
        """Enqueue (3, H, W); cancelling the future spares the forward pass if it has not begun.

        Raises:
            OverloadedError: The queue is full.
            EngineStoppedError: The engine crashed or was closed.
        """

    def close(self, reason: str) -> None:
        """Fail what is pending with `EngineStoppedError` and stop; the first call waits, bounded, for what runs."""

    @property
    def waiting(self) -> int:
        """Images that wait for a forward pass."""

    @property
    def images_finished(self) -> int:
        """Images whose forward pass succeeded."""

    @property
    def expected_wait_seconds(self) -> float:
        """Estimate of the time until an image submitted now would start."""

    def busy_seconds(self) -> float:
        """Wall time with a forward pass running, the running one included."""

    def gpu_busy_seconds(self) -> float | None:
        """Time on the GPU; None if there is none."""

    def current_forward_seconds(self) -> float:
        """Age of the running forward pass; 0 if none runs."""


@dataclass(slots=True)
class _Task:
    pixel_values: NDArray[np.float32]
    submitted: float
    future: Future[EngineResult] = field(default_factory=Future)


class ThreadEngine:
    """An engine inside the process.

    Args:
        load: Makes the model; runs in the worker thread, so that imports and allocations do not delay the probes.
        max_waiting: Images that may wait.
        max_consecutive_failures: Forward passes that may raise one after another before the engine gives up.
        on_crash: Called at most once, from the worker thread, if the engine dies after its start.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        load: Callable[[], DepthModel],
        *,
        max_waiting: int,
        max_consecutive_failures: int,
        on_crash: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._load = load
        self._max_waiting = max_waiting
        self._max_consecutive_failures = max_consecutive_failures
        self._on_crash = on_crash
        self._clock = clock
        self._condition = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._running: _Task | None = None
        self._stop_reason: str | None = None
        self._consecutive_failures = 0
        self._images_finished = 0
        self._mean_forward_seconds = 0.0
        self._finished_seconds = 0.0
        self._gpu_seconds: float | None = None
        self._forward_began: float | None = None
        self._thread: threading.Thread | None = None
        self._has_waited = False

    def start(self, on_loaded: Callable[[ModelInfo], None]) -> Future[ModelInfo]:
        """See `Engine.start`."""
        started: Future[ModelInfo] = Future()
        started.set_running_or_notify_cancel()  # from here on it cannot be cancelled: the worker resolves it
        # A daemon, because a forward pass cannot be interrupted and must not keep a stopping process alive.
        self._thread = threading.Thread(target=self._work, args=(started, on_loaded), name="depth-engine", daemon=True)
        self._thread.start()
        return started

    def submit(self, pixel_values: NDArray[np.float32]) -> Future[EngineResult]:
        """See `Engine.submit`."""
        with self._condition:
            if self._stop_reason is not None:
                raise EngineStoppedError(self._stop_reason)
            if len(self._tasks) >= self._max_waiting:
                self._tasks = deque(task for task in self._tasks if not task.future.cancelled())
            if len(self._tasks) >= self._max_waiting:
                message = f"{len(self._tasks)} images already wait for the engine"
                raise OverloadedError(message, retry_after_seconds=retry_after(self._expected_wait()))
            task = _Task(pixel_values, self._clock())
            self._tasks.append(task)
            self._condition.notify()
            return task.future

    def close(self, reason: str) -> None:
        """See `Engine.close`."""
        self._stop(reason)
        # Once: a drain and the end of the application both close, and the grace of the pod has room for one wait.
        if self._thread is not None and not self._has_waited:
            self._has_waited = True
            self._thread.join(CLOSE_TIMEOUT_SECONDS)

    @property
    def is_running(self) -> bool:
        """Whether the worker thread lives; after `close` it may still be inside a call that cannot be interrupted."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """See `Engine.waiting`."""
        with self._condition:
            return sum(not task.future.cancelled() for task in self._tasks)

    @property
    def images_finished(self) -> int:
        """See `Engine.images_finished`."""
        return self._images_finished

    @property
    def expected_wait_seconds(self) -> float:
        """See `Engine.expected_wait_seconds`."""
        with self._condition:
            return self._expected_wait()

    def busy_seconds(self) -> float:
        """See `Engine.busy_seconds`."""
        with self._condition:
            return self._finished_seconds + self._current_seconds()

    def gpu_busy_seconds(self) -> float | None:
        """See `Engine.gpu_busy_seconds`."""
        return self._gpu_seconds

    def current_forward_seconds(self) -> float:
        """See `Engine.current_forward_seconds`."""
        with self._condition:
            return self._current_seconds()

    def _expected_wait(self) -> float:
        return (len(self._tasks) + (self._forward_began is not None)) * self._mean_forward_seconds

    def _current_seconds(self) -> float:
        return 0.0 if self._forward_began is None else self._clock() - self._forward_began

    def _work(self, started: Future[ModelInfo], on_loaded: Callable[[ModelInfo], None]) -> None:
        try:
            model = self._load()
            on_loaded(model.info)
            model.warm_up()
        except BaseException as error:  # noqa: BLE001 the thread's outermost boundary; whoever waits gets the error
            self._stop("the engine could not start")
            started.set_exception(error)
            return
        started.set_result(model.info)
        try:
            while (task := self._next_task()) is not None:
                self._serve(model, task)
        except BaseException as error:
            logger.exception("the engine crashed")
            reason = f"the engine crashed: {type(error).__name__}: {error}"
            self._stop(reason)
            self._on_crash(reason)

    def _next_task(self) -> _Task | None:
        """Wait for a task that somebody still wants; None when the engine is stopped."""
        with self._condition:
            while self._stop_reason is None:
                if not self._tasks:
                    self._condition.wait()
                    continue
                task = self._tasks.popleft()
                if task.future.set_running_or_notify_cancel():
                    self._running = task
                    self._forward_began = self._clock()
                    return task
            return None

    def _serve(self, model: DepthModel, task: _Task) -> None:
        """Run one forward pass and resolve its future; raises only if the engine is to give up."""
        began = self._clock() if self._forward_began is None else self._forward_began
        result: EngineResult | None = None
        failure: Exception | None = None
        try:
            forwarded = model.forward(task.pixel_values)
            self._gpu_seconds = _add(self._gpu_seconds, forwarded.gpu_seconds)
            _check_depth(forwarded.depth, task.pixel_values)
            result = EngineResult(forwarded.depth, began - task.submitted, self._clock() - began)
        except (EngineMemoryError, NonFiniteDepthError) as error:
            failure = error
        except Exception as error:
            logger.exception("a forward pass failed")
            failure = ForwardError(f"the forward pass failed: {type(error).__name__}")
        finally:
            self._account(began, succeeded=result is not None)
        if result is not None:
            _resolve(task.future, result)
            self._consecutive_failures = 0
            return
        if failure is not None:
            _fail(task.future, failure)
        if isinstance(failure, ForwardError):
            self._consecutive_failures += 1
            if self._consecutive_failures >= self._max_consecutive_failures:
                message = f"{self._consecutive_failures} forward passes failed one after another"
                raise ForwardError(message)

    def _account(self, began: float, *, succeeded: bool) -> None:
        with self._condition:
            elapsed = self._clock() - began
            self._finished_seconds += elapsed
            self._forward_began = None
            if succeeded:
                self._running = None
                self._images_finished += 1
                weight = FORWARD_SMOOTHING if self._mean_forward_seconds else 1.0
                self._mean_forward_seconds += weight * (elapsed - self._mean_forward_seconds)

    def _stop(self, reason: str) -> None:
        with self._condition:
            if self._stop_reason is None:
                self._stop_reason = reason
            pending = [*([self._running] if self._running else []), *self._tasks]
            self._tasks.clear()
            self._running = None
            self._condition.notify_all()
        for task in pending:
            _fail(task.future, EngineStoppedError(reason))


def retry_after(expected_wait_seconds: float) -> int:
    """Turn an estimated wait into a `Retry-After` between one second and a minute."""
    return min(max(math.ceil(expected_wait_seconds), 1), MAX_RETRY_AFTER_SECONDS)


def _check_depth(depth: NDArray[np.float32], pixel_values: NDArray[np.float32]) -> None:
    if depth.shape != pixel_values.shape[1:]:
        message = f"the model gave depth of {depth.shape} for an input of {pixel_values.shape[1:]}"
        raise ForwardError(message)
    if not np.isfinite(depth).all():
        message = "the model gave NaN or infinite depth for this image"
        raise NonFiniteDepthError(message)


def _add(total: float | None, more: float | None) -> float | None:
    return total if more is None else (total or 0.0) + more


def _resolve(future: Future[EngineResult], result: EngineResult) -> None:
    # `close` may have failed the future while the forward pass ran.
    with contextlib.suppress(InvalidStateError):
        future.set_result(result)


def _fail(future: Future[EngineResult], error: Exception) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)
