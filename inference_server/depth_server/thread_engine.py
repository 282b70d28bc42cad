"""Runs a model inside the process.

`ThreadEngine` gives one model to one worker thread behind a `BatchQueue`: the thread loads the model, warms it up,
measures it and runs one batch after the other. It knows no torch. An engine process runs the same class.

Invariants:

- Every future that `submit` returned is resolved: with depth, with an error, or by its own cancellation. If the worker
  dies, all pending ones fail and `on_crash` is called.
- A request whose future was cancelled before its batch was formed costs no forward pass.
- A device without memory costs a batch its size, for as long as the engine lives, and at most the requests in it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depth_server.batch_queue import REFERENCE_SIZE, BatchPolicy, BatchQueue, Forecast, Task
from depth_server.batching import Lane
from depth_server.calibration import calibrate
from depth_server.engine import CLOSE_TIMEOUT_SECONDS, DepthModel, EngineResult, ModelInfo, PipelinedModel
from depth_server.errors import (
    DepthServerError,
    EngineMemoryError,
    EngineStoppedError,
    ForwardError,
    NonFiniteDepthError,
)
from depth_server.latency import LatencyCell
from depth_server.preprocess import Size

logger = logging.getLogger(__name__)

ImageTask = Task[NDArray[np.float32], EngineResult]


@dataclass(slots=True)
class _Batch:
    """Images of one bucket on their way through the model.

    Attributes:
        tasks: In the order of the batch.
        staged: What `PipelinedModel.stage` returned, or None.
    """

    tasks: list[ImageTask]
    staged: object = None

    @property
    def bucket(self) -> Size:
        return self.tasks[0].entry.bucket


class ThreadEngine:
    """An engine inside the process.

    Args:
        load: Makes the model; runs in the worker thread, so that imports and allocations do not delay the probes.
        policy: How to queue and to batch.
        max_consecutive_failures: Forward passes that may raise one after another before the engine gives up.
        on_crash: Called at most once, from the worker thread, if the engine dies after its start.
        clock: Monotonic seconds, the same for deadlines.
    """

    def __init__(
        self,
        load: Callable[[], DepthModel],
        *,
        policy: BatchPolicy,
        max_consecutive_failures: int,
        on_crash: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._policy = policy
        self._max_consecutive_failures = max_consecutive_failures
        self._on_crash = on_crash
        self._clock = clock
        self._condition = threading.Condition()
        self._queue: BatchQueue[NDArray[np.float32], EngineResult] = BatchQueue(policy, _drop)
        self._running: _Batch | None = None
        self._next: _Batch | None = None
        self._stop_reason: str | None = None
        self._consecutive_failures = 0
        self._images_finished = 0
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

    def submit(
        self, pixel_values: NDArray[np.float32], *, deadline: float | None = None, lane: Lane = Lane.INTERACTIVE
    ) -> Future[EngineResult]:
        """See `Engine.submit`."""
        bucket = Size(pixel_values.shape[1], pixel_values.shape[2])
        with self._condition:
            if self._stop_reason is not None:
                raise EngineStoppedError(self._stop_reason)
            now = self._clock()
            task = self._queue.add(
                bucket, pixel_values, lane=lane, deadline=deadline, now=now, busy_seconds=self._busy_left(now)
            )
            self._condition.notify()
            return task.future

    def forecast(self, size: Size, lane: Lane = Lane.INTERACTIVE) -> Forecast:
        """See `Engine.forecast`."""
        with self._condition:
            now = self._clock()
            return self._queue.forecast(size, lane, now, self._busy_left(now))

    def close(self, reason: str, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """See `Engine.close`."""
        self._stop(reason)
        # Once: a drain and the end of the application both close, and the grace of the pod has room for one wait.
        if self._thread is not None and not self._has_waited:
            self._has_waited = True
            self._thread.join(timeout_seconds)

    @property
    def expected_wait_seconds(self) -> float:
        """See `Engine.expected_wait_seconds`."""
        return self.forecast(REFERENCE_SIZE).wait_seconds

    @property
    def is_running(self) -> bool:
        """See `Engine.is_running`; after `close` the thread may still be inside a call that cannot be interrupted."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def replicas(self) -> int:
        """See `Engine.replicas`."""
        return 1

    @property
    def waiting(self) -> int:
        """See `Engine.waiting`."""
        with self._condition:
            return self._queue.waiting + (len(self._next.tasks) if self._next else 0)

    @property
    def images_finished(self) -> int:
        """See `Engine.images_finished`."""
        return self._images_finished

    def busy_seconds(self) -> float:
        """See `Engine.busy_seconds`."""
        with self._condition:
            return self._finished_seconds + self._current_seconds(self._clock())

    def gpu_busy_seconds(self) -> float | None:
        """See `Engine.gpu_busy_seconds`."""
        return self._gpu_seconds

    def current_forward_seconds(self) -> float:
        """See `Engine.current_forward_seconds`."""
        with self._condition:
            return self._current_seconds(self._clock())

    def latency_cells(self) -> list[LatencyCell]:
        """List the forward passes measured so far."""
        with self._condition:
            return self._queue.latency.cells()

    def batch_limit(self, bucket: Size) -> int:
        """Give the largest batch of a bucket."""
        with self._condition:
            return self._queue.limit(bucket)

    def _current_seconds(self, now: float) -> float:
        return 0.0 if self._forward_began is None else now - self._forward_began

    def _busy_left(self, now: float) -> float:
        """Predict when the engine is free; its prefetched batch counts."""
        left = 0.0
        latency = self._queue.latency
        if self._running is not None:
            expected = latency.margined_seconds(self._running.bucket, len(self._running.tasks))
            left += max(expected - self._current_seconds(now), 0.0)
        if self._next is not None:
            left += latency.margined_seconds(self._next.bucket, len(self._next.tasks))
        return left

    def _work(self, started: Future[ModelInfo], on_loaded: Callable[[ModelInfo], None]) -> None:
        try:
            model = self._load()
            on_loaded(model.info)
            model.warm_up()
            self._calibrate(model)
        except BaseException as error:  # noqa: BLE001 the thread's outermost boundary; whoever waits gets the error
            self._stop("the engine could not start")
            started.set_exception(error)
            return
        started.set_result(model.info)
        try:
            while self._await_batch():
                self._serve(model)
        except BaseException as error:
            logger.exception("the engine crashed")
            reason = f"the engine crashed: {type(error).__name__}: {error}"
            self._stop(reason)
            self._on_crash(reason)

    def _calibrate(self, model: DepthModel) -> None:
        """Measure the model and find the batches that are worth their latency."""
        if not self._policy.warm_up_sizes:
            return
        report = calibrate(model.forward, self._policy, self._clock)
        with self._condition:
            for cell in report.cells:
                self._queue.latency.calibrate(cell.bucket, cell.batch_size, cell.seconds)
            self._queue.set_default_limit(
                self._queue.latency.useful_batch(self._policy.warm_up_sizes[0], self._policy.max_batch_size)
            )
            for bucket, limit in report.limits.items():
                self._queue.lower_limit(bucket, limit)
        logger.info(
            "measured %d sizes of batches; up to %d images in one",
            len(report.cells),
            self.batch_limit(self._policy.warm_up_sizes[0]),
        )

    def _await_batch(self) -> bool:
        """Wait for a batch that somebody still wants; False when the engine is stopped."""
        with self._condition:
            while self._stop_reason is None:
                if self._begin_next():
                    return True
                self._condition.wait()
            return False

    def _begin_next(self) -> bool:
        """Make the prefetched batch, or else what waits, the running one."""
        now = self._clock()
        batch, self._next = self._next, None
        if batch is None and (tasks := self._queue.take(now)):
            batch = _Batch(tasks)
        self._running = batch
        self._forward_began = None if batch is None else now
        return batch is not None

    def _serve(self, model: DepthModel) -> None:
        """Run the batch and resolve its futures; raises only if the engine is to give up."""
        batch = self._running
        if batch is None or self._forward_began is None:
            return  # closed meanwhile
        began = self._forward_began
        failure: Exception | None = None
        try:
            outcomes = self._run_or_halve(model, batch, began)
        except Exception as error:
            logger.exception("a forward pass failed")
            failure = ForwardError(f"the forward pass failed: {type(error).__name__}")
            outcomes = [failure] * len(batch.tasks)
        succeeded = sum(isinstance(outcome, EngineResult) for outcome in outcomes)
        with self._condition:
            self._finished_seconds += self._clock() - began
            self._forward_began = None
            self._running = None
            self._images_finished += succeeded
        for task, outcome in zip(batch.tasks, outcomes, strict=True):
            _resolve(task, outcome)
        if failure is None:
            self._consecutive_failures = 0 if succeeded else self._consecutive_failures
            return
        self._consecutive_failures += 1
        if self._consecutive_failures >= self._max_consecutive_failures:
            message = f"{self._consecutive_failures} forward passes failed one after another"
            raise ForwardError(message)

    def _run_or_halve(self, model: DepthModel, batch: _Batch, began: float) -> Sequence[EngineResult | Exception]:
        """Run a batch; where memory is short, run its halves once and allow no larger batch of its bucket from now."""
        try:
            return self._run(model, batch, began)
        except EngineMemoryError as error:
            half = len(batch.tasks) // 2
            if not half:
                return [error]
            self._lower_limit(batch.bucket, half)
        outcomes: list[EngineResult | Exception] = []
        for tasks in (batch.tasks[:half], batch.tasks[half:]):
            try:
                outcomes.extend(self._run(model, _Batch(tasks), self._clock()))
            except EngineMemoryError as error:
                self._lower_limit(batch.bucket, max(half // 2, 1))
                outcomes.extend([error] * len(tasks))
        return outcomes

    def _lower_limit(self, bucket: Size, limit: int) -> None:
        logger.warning(
            "no memory for a batch of %dx%d: at most %d images from now on", bucket.width, bucket.height, limit
        )
        with self._condition:
            self._queue.lower_limit(bucket, limit)

    def _run(self, model: DepthModel, batch: _Batch, began: float) -> Sequence[EngineResult | Exception]:
        """Run one forward pass and look at each image's depth."""
        images = [task.payload for task in batch.tasks]
        if isinstance(model, PipelinedModel):
            staged = model.stage(images) if batch.staged is None else batch.staged
            finish = model.launch(staged)
            batch.staged = None
            self._prefetch(model)
            forwarded = finish()
        else:
            forwarded = model.forward(images[0][np.newaxis] if len(images) == 1 else np.stack(images))
        seconds = self._clock() - began
        size = batch.bucket
        if forwarded.depth.shape != (len(images), size.height, size.width):
            message = f"the model gave depth of {forwarded.depth.shape} for {len(images)} images of {size}"
            raise ForwardError(message)
        with self._condition:
            if forwarded.gpu_seconds is not None:
                self._gpu_seconds = (self._gpu_seconds or 0.0) + forwarded.gpu_seconds
            self._queue.latency.observe(size, len(images), seconds)
        return [
            _outcome(depth, began - task.entry.arrival, seconds, len(images))
            for depth, task in zip(forwarded.depth, batch.tasks, strict=True)
        ]

    def _prefetch(self, model: PipelinedModel) -> None:
        """Copy the next batch to the device while this one is computed, if no later arrival could make it larger."""
        with self._condition:
            if self._next is not None or self._stop_reason is not None:
                return
            now = self._clock()
            tasks = self._queue.take_full(now + self._busy_left(now))
            if not tasks:
                return
            self._next = _Batch(tasks)
        batch = self._next
        try:
            batch.staged = model.stage([task.payload for task in batch.tasks])
        except EngineMemoryError:
            return  # the running batch may hold the memory; its turn comes and tries again

    def _stop(self, reason: str) -> None:
        with self._condition:
            if self._stop_reason is None:
                self._stop_reason = reason
            pending = [task for batch in (self._running, self._next) if batch for task in batch.tasks]
            pending += self._queue.clear()
            self._running = self._next = None
            self._condition.notify_all()
        for task in pending:
            _drop(task, EngineStoppedError(reason))


def _outcome(
    depth: NDArray[np.float32], queue_seconds: float, forward_seconds: float, batch_size: int
) -> EngineResult | Exception:
    if not np.isfinite(depth).all():
        message = "the model gave NaN or infinite depth for this image"
        return NonFiniteDepthError(message)
    return EngineResult(depth, queue_seconds, forward_seconds, batch_size)


def _resolve(task: ImageTask, outcome: EngineResult | Exception) -> None:
    # `close` may have failed the future while the forward pass ran.
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, EngineResult):
            task.future.set_result(outcome)
        else:
            task.future.set_exception(outcome)


def _drop(task: ImageTask, error: DepthServerError) -> None:
    with contextlib.suppress(InvalidStateError):
        task.future.set_exception(error)
