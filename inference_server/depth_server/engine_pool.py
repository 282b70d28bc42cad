"""Engine processes, one per GPU, behind the `Engine` interface.

The API process never touches CUDA: it starts the processes, sends each image to the one with the least predicted
outstanding work, and starts a process again that died. One thread moves the messages; `submit` copies pixels in its
caller's thread.

Invariants:

- Every future that `submit` returned is resolved. What a dead process held fails with `EngineStoppedError`; what the
  others hold is not touched.
- A slot is handed out again only after the process answered for it or is gone.
"""

import contextlib
import itertools
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import zmq
from numpy.typing import NDArray

from depth_server.batch_queue import REFERENCE_SIZE, Forecast, retry_after
from depth_server.batching import Lane
from depth_server.engine import CLOSE_TIMEOUT_SECONDS, EngineResult, ModelInfo
from depth_server.engine_handle import EngineHandle, EngineProcessSpec, Pending, ProcessState
from depth_server.engine_messages import (
    REPLY,
    CancelMessage,
    CloseMessage,
    DepthMessage,
    ErrorMessage,
    FailedMessage,
    LoadedMessage,
    Message,
    ProgressMessage,
    ReadyMessage,
    StatsMessage,
    SubmitMessage,
    encode,
    error_of,
)
from depth_server.errors import (
    DepthServerError,
    EngineStoppedError,
    OverloadedError,
    StartupError,
    StartupReason,
)
from depth_server.preprocess import Size
from depth_server.shared_memory import slot_bytes

logger = logging.getLogger(__name__)

POLL_MILLISECONDS: Final = 250
"""How often the thread looks for processes that hang or are to be started again."""

STABLE_SECONDS: Final = 60.0
"""A process that was ready for so long starts again without a longer wait."""


class PoolListener(Protocol):
    """Told of the pool's state, from its thread; all but the progress only after its start."""

    def on_progress(self, detail: str) -> None:
        """What some process does until its model is loaded."""

    def on_available(self) -> None:
        """Some process takes images again."""

    def on_unavailable(self, reason: str) -> None:
        """No process takes images; one is being started."""

    def on_crash(self, reason: str) -> None:
        """The pool gives up."""


class EnginePool:
    """Engine processes.

    Args:
        spec: How they are run.
        listener: Told of changes after the start.
        clock: Monotonic seconds, as the processes' own.
    """

    def __init__(
        self, spec: EngineProcessSpec, listener: PoolListener, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._spec = spec
        self._listener = listener
        self._clock = clock
        self._lock = threading.Lock()
        self._handles = [EngineHandle(index, spec) for index in range(len(spec.environments))]
        self._ids = itertools.count()
        self._outbox: deque[tuple[EngineHandle, Message]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._folder = Path(tempfile.mkdtemp(prefix="depth-engine-"))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._started: Future[ModelInfo] = Future()
        self._on_loaded: Callable[[ModelInfo], None] | None = None
        self._stop_reason: str | None = None
        self._images_finished = 0
        self._thread: threading.Thread | None = None

    def start(self, on_loaded: Callable[[ModelInfo], None]) -> Future[ModelInfo]:
        """See `Engine.start`; done when every process is ready."""
        self._on_loaded = on_loaded
        self._started.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=self._work, name="engine-pool", daemon=True)
        self._thread.start()
        return self._started

    def submit(
        self, pixel_values: NDArray[np.float32], *, deadline: float | None = None, lane: Lane = Lane.INTERACTIVE
    ) -> Future[EngineResult]:
        """See `Engine.submit`."""
        size = Size(pixel_values.shape[1], pixel_values.shape[2])
        handle, pending = self._reserve(size, lane)
        handle.pixels.pixel_values(pending.slot.offset, size)[...] = pixel_values
        key = next(self._ids)
        message = SubmitMessage(
            id=key,
            offset=pending.slot.offset,
            height=size.height,
            width=size.width,
            lane=lane,
            deadline=deadline,
        )
        with self._lock:
            if handle.state is not ProcessState.READY or self._stop_reason is not None:
                handle.slots.free(pending.slot)
                raise EngineStoppedError(self._stop_reason or "the engine process ended before it got the image")
            handle.pending[key] = pending
        self._post(handle, message)

        def on_done(future: Future[EngineResult]) -> None:
            if future.cancelled():
                self._post(handle, CancelMessage(id=key))

        pending.future.add_done_callback(on_done)
        return pending.future

    def forecast(self, size: Size, lane: Lane = Lane.INTERACTIVE) -> Forecast:
        """See `Engine.forecast`."""
        with self._lock:
            forecasts = [handle.forecast(size, lane) for handle in self._ready()]
        if not forecasts:
            return Forecast(self._spec.restart_seconds, 0.0, 0.0, 0.0)
        best = min(forecasts, key=lambda forecast: forecast.finish_seconds)
        return replace(best, image_seconds=best.image_seconds / len(forecasts))

    def close(self, reason: str) -> None:
        """See `Engine.close`."""
        with self._lock:
            if self._stop_reason is None:
                self._stop_reason = reason
        if self._thread is None:
            self._end()
            return
        self._notify()
        self._thread.join(2 * CLOSE_TIMEOUT_SECONDS)

    @property
    def is_running(self) -> bool:
        """See `Engine.is_running`: never, since what runs is in other processes."""
        return False

    @property
    def replicas(self) -> int:
        """See `Engine.replicas`; those that are being started again count."""
        return len(self._handles)

    @property
    def waiting(self) -> int:
        """See `Engine.waiting`; up to a quarter of a second old."""
        with self._lock:
            return sum(handle.stats.waiting for handle in self._handles if handle.stats)

    @property
    def images_finished(self) -> int:
        """See `Engine.images_finished`."""
        return self._images_finished

    @property
    def expected_wait_seconds(self) -> float:
        """See `Engine.expected_wait_seconds`."""
        return self.forecast(REFERENCE_SIZE).wait_seconds

    def busy_seconds(self) -> float:
        """See `Engine.busy_seconds`."""
        with self._lock:
            return sum(handle.totals()[0] for handle in self._handles) / len(self._handles)

    def gpu_busy_seconds(self) -> float | None:
        """See `Engine.gpu_busy_seconds`."""
        with self._lock:
            seconds = [total for handle in self._handles if (total := handle.totals()[1]) is not None]
        return sum(seconds) / len(self._handles) if seconds else None

    def current_forward_seconds(self) -> float:
        """See `Engine.current_forward_seconds`."""
        with self._lock:
            return max((handle.stats.current_forward_seconds for handle in self._handles if handle.stats), default=0.0)

    def process_ids(self) -> list[int | None]:
        """List the processes' ids; None for one that is down."""
        with self._lock:
            return [handle.run.process.pid if handle.run else None for handle in self._handles]

    def _ready(self) -> list[EngineHandle]:
        return [handle for handle in self._handles if handle.state is ProcessState.READY]

    def _reserve(self, size: Size, lane: Lane) -> tuple[EngineHandle, Pending]:
        """Find the process with the least work that has memory for the image."""
        with self._lock:
            if self._stop_reason is not None:
                raise EngineStoppedError(self._stop_reason)
            ready = sorted(self._ready(), key=EngineHandle.outstanding_seconds)
            if not ready:
                message = "no engine process is ready; one is being started"
                raise EngineStoppedError(message)
            policy = self._spec.policy
            for handle in ready:
                # The running and the prefetched batch do not wait.
                if len(handle.pending) >= policy.max_waiting + 2 * policy.max_batch_size:
                    continue
                slot = handle.slots.allocate(slot_bytes(size))
                if slot is not None:
                    return handle, Pending(Future(), slot, size, lane)
            wait = ready[0].forecast(size, lane).wait_seconds
        message = "the images that wait for the engine use all the room meant for them"
        raise OverloadedError(message, retry_after_seconds=retry_after(wait))

    def _post(self, handle: EngineHandle, message: Message) -> None:
        self._outbox.append((handle, message))
        self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            os.eventfd_write(self._wake, 1)

    def _work(self) -> None:
        try:
            for handle in self._handles:
                handle.spawn(self._context, self._folder, self._clock())
            while self._stop_reason is None:
                self._poll()
                self._send()
                for handle in self._handles:
                    self._attend(handle)
        except Exception as error:
            logger.exception("the engine pool crashed")
            self._give_up(f"the engine pool crashed: {type(error).__name__}: {error}")
        finally:
            self._end()

    def _poll(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        for handle in self._handles:
            if handle.run is not None:
                poller.register(handle.run.socket, zmq.POLLIN)
                poller.register(handle.run.descriptor, zmq.POLLIN)
        poller.poll(POLL_MILLISECONDS)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _send(self) -> None:
        while self._outbox:
            handle, message = self._outbox.popleft()
            # What was meant for a process that has died was failed with it.
            wanted = not isinstance(message, SubmitMessage) or message.id in handle.pending
            if handle.run is not None and wanted:
                try:
                    handle.run.socket.send(encode(message), zmq.NOBLOCK)
                except zmq.Again:
                    handle.kill("it does not read its messages")

    def _attend(self, handle: EngineHandle) -> None:
        """Read what a process sent, notice its end, start it again when it is time."""
        now = self._clock()
        run = handle.run
        if run is None:
            if handle.restart_at is not None and now >= handle.restart_at:
                handle.spawn(self._context, self._folder, now)
            return
        ended = run.process.poll() is not None
        while run.socket.poll(0):
            handle.last_heard = now
            self._on_reply(handle, run.socket.recv())
        if ended:
            self._on_end(handle)
        elif handle.state is ProcessState.READY:
            self._check_progress(handle, now)

    def _check_progress(self, handle: EngineHandle, now: float) -> None:
        spec, stats = self._spec, handle.stats
        if now - handle.last_heard > spec.max_silence_seconds:
            handle.kill(f"it was silent for {spec.max_silence_seconds:g} s")
        elif stats is not None and stats.current_forward_seconds > spec.max_forward_seconds:
            handle.kill(f"a forward pass took more than {spec.max_forward_seconds:g} s")
        elif handle.restarts and now - handle.ready_since > STABLE_SECONDS:
            handle.restarts = 0

    def _on_reply(self, handle: EngineHandle, data: bytes) -> None:
        reply = REPLY.validate_json(data)
        if isinstance(reply, DepthMessage):
            self._on_depth(handle, reply)
        elif isinstance(reply, ErrorMessage):
            self._release(handle, reply.id, error_of(reply))
        elif isinstance(reply, StatsMessage):
            with self._lock:
                handle.stats = reply
        elif isinstance(reply, ProgressMessage):
            if not self._started.done():
                self._listener.on_progress(reply.detail)
        elif isinstance(reply, LoadedMessage):
            if self._on_loaded is not None:
                on_loaded, self._on_loaded = self._on_loaded, None
                on_loaded(reply.info)
        elif isinstance(reply, ReadyMessage):
            self._on_ready(handle, reply)
        else:
            self._on_failed(handle, reply)

    def _on_depth(self, handle: EngineHandle, reply: DepthMessage) -> None:
        with self._lock:
            pending = handle.pending[reply.id]
        depth = handle.pixels.depth(pending.slot.offset, pending.size).copy()
        result = EngineResult(depth, reply.queue_seconds, reply.forward_seconds, reply.batch_size)
        with self._lock:
            handle.observe(pending.size, result)
            self._images_finished += 1
        self._release(handle, reply.id, result)

    def _release(self, handle: EngineHandle, key: int, outcome: EngineResult | DepthServerError) -> None:
        with self._lock:
            pending = handle.pending.pop(key)
            handle.slots.free(pending.slot)
        with contextlib.suppress(InvalidStateError):  # its client left
            if isinstance(outcome, EngineResult):
                pending.future.set_result(outcome)
            else:
                pending.future.set_exception(outcome)

    def _on_ready(self, handle: EngineHandle, reply: ReadyMessage) -> None:
        with self._lock:
            was_available = bool(self._ready())
            handle.become_ready(reply, self._clock())
            all_ready = len(self._ready()) == len(self._handles)
        logger.info("engine process %d is ready on %s", handle.index, reply.info.device)
        if not self._started.done():
            if all_ready:
                self._started.set_result(reply.info)
        elif not was_available:
            self._listener.on_available()

    def _on_failed(self, handle: EngineHandle, reply: FailedMessage) -> None:
        handle.complaint = reply.message
        if not self._started.done():
            self._fail_start(StartupError(reply.reason, reply.message))

    def _on_end(self, handle: EngineHandle) -> None:
        with self._lock:
            report = handle.bury()
            lost = list(handle.pending)
            is_available = bool(self._ready())
        logger.error("%s, with %d images", report, len(lost))
        for key in lost:
            self._release(handle, key, EngineStoppedError(f"{report}; send the request again"))
        if not self._started.done():
            hint = "; a process that is killed while it loads has usually run out of memory"
            self._fail_start(StartupError(StartupReason.INTERNAL_ERROR, report + hint))
        if self._stop_reason is not None:
            return
        if handle.restarts >= self._spec.max_restarts:
            self._give_up(f"{report}, after {handle.restarts} restarts")
            return
        delay = self._spec.backoff_seconds(handle.restarts)
        handle.restarts += 1
        handle.restart_at = self._clock() + delay
        logger.info("engine process %d starts again in %g s", handle.index, delay)
        if not is_available:
            self._listener.on_unavailable(f"{report}; it starts again in {delay:g} s")

    def _fail_start(self, error: StartupError) -> None:
        with self._lock:
            self._stop_reason = self._stop_reason or "the engine could not start"
        self._started.set_exception(error)

    def _give_up(self, reason: str) -> None:
        with self._lock:
            first = self._stop_reason is None
            self._stop_reason = self._stop_reason or reason
        if not self._started.done():
            self._started.set_exception(StartupError(StartupReason.INTERNAL_ERROR, reason))
        elif first:
            self._listener.on_crash(reason)

    def _end(self) -> None:
        """Tell the processes to end, see to it that they do, and fail what they held."""
        if self._context.closed:
            return
        reason = self._stop_reason or "the engine pool ended"
        for handle in self._handles:
            if handle.run is not None:
                with contextlib.suppress(zmq.Again):
                    handle.run.socket.send(encode(CloseMessage(reason=reason)), zmq.NOBLOCK)
        limit = self._clock() + CLOSE_TIMEOUT_SECONDS
        for handle in self._handles:
            self._end_process(handle, limit)
            for key in list(handle.pending):
                self._release(handle, key, EngineStoppedError(reason))
            handle.pixels.close()
        if not self._started.done():
            self._started.set_exception(EngineStoppedError(reason))
        self._context.term()
        os.close(self._wake)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end_process(self, handle: EngineHandle, limit: float) -> None:
        run = handle.run
        if run is None:
            return
        poller = zmq.Poller()
        poller.register(run.descriptor, zmq.POLLIN)
        if not poller.poll(int(max(limit - self._clock(), 0.0) * 1000)):
            handle.kill("it did not end when told to")
        with self._lock:
            report = handle.bury()
        logger.info("%s", report)
