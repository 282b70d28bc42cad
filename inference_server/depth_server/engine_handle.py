"""One engine process as the API process sees it: its start, what it holds, what is predicted for it, its end.

Not thread-safe: `engine_pool` holds a lock.
"""

import contextlib
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import zmq

from depth_server.batch_queue import BatchPolicy, Forecast, forecast_one
from depth_server.batching import Lane, queued_seconds
from depth_server.engine import EngineResult
from depth_server.engine_messages import ReadyMessage, StatsMessage, size_of
from depth_server.engine_process import POLICY
from depth_server.latency import LatencyTable
from depth_server.preprocess import Size
from depth_server.shared_memory import SharedPixels, Slot, SlotAllocator

logger = logging.getLogger(__name__)

CONFIGURED_LOADER: Final = "depth_server.engine_process:load_configured_model"
"""Loads the model that the settings declare."""

MAX_MESSAGES: Final = 10_000
"""Messages that may wait in a socket; far more than images may wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProcessSpec:
    """How engine processes are run.

    Attributes:
        environments: Environment of each process beside the inherited one; there are as many processes.
        policy: How each queues and batches.
        pixels_bytes: Shared memory of each; taken only as it is used.
        loader: `module:function` that loads the model.
        max_consecutive_failures: Forward passes that may raise one after another before a process gives up.
        max_forward_seconds: A forward pass that takes longer costs the process its life.
        max_silence_seconds: Likewise silence of a process that was ready.
        restart_seconds: Wait before the first restart; it doubles with each further one.
        max_restart_seconds: Longest wait before a restart.
        max_restarts: Restarts one after another without success before the server gives up.
        log_level: Least severity that the processes log.
    """

    environments: tuple[Mapping[str, str], ...]
    policy: BatchPolicy
    pixels_bytes: int
    loader: str = CONFIGURED_LOADER
    max_consecutive_failures: int = 3
    max_forward_seconds: float = 300.0
    max_silence_seconds: float = 60.0
    restart_seconds: float = 1.0
    max_restart_seconds: float = 60.0
    max_restarts: int = 5
    log_level: str = "INFO"

    def backoff_seconds(self, restarts: int) -> float:
        """Tell how long to wait before another restart, after `restarts` in a row."""
        return min(self.restart_seconds * 2.0**restarts, self.max_restart_seconds)


class ProcessState(StrEnum):
    """States of an engine process."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"


@dataclass(slots=True, eq=False)
class Pending:
    """An image that the process holds."""

    future: Future[EngineResult]
    slot: Slot
    size: Size
    lane: Lane


@dataclass(slots=True)
class _Totals:
    """Counters that outlive a process."""

    busy_seconds: float = 0.0
    gpu_busy_seconds: float | None = None

    def plus(self, stats: StatsMessage | None) -> "_Totals":
        if stats is None:
            return self
        gpu = self.gpu_busy_seconds
        if stats.gpu_busy_seconds is not None:
            gpu = (gpu or 0.0) + stats.gpu_busy_seconds
        return _Totals(self.busy_seconds + stats.busy_seconds, gpu)


@dataclass(slots=True)
class _Run:
    """One life of the process."""

    process: subprocess.Popen[bytes]
    descriptor: int
    lifeline: int
    socket: zmq.Socket[bytes]


@dataclass(slots=True)
class EngineHandle:
    """An engine process and its successors.

    Attributes:
        index: Its number.
        spec: How it is run.
        state: Of the current process.
        pending: What it holds, by request id.
        restarts: Restarts since it was last ready for long.
        restart_at: When it is to be started again, in monotonic seconds; None while it runs.
        ready_since: When it became ready.
        last_heard: When it last sent something.
        complaint: Why it could not start, in its own words.
    """

    index: int
    spec: EngineProcessSpec
    state: ProcessState = ProcessState.DOWN
    pending: dict[int, Pending] = field(default_factory=dict)
    restarts: int = 0
    restart_at: float | None = None
    ready_since: float = 0.0
    last_heard: float = 0.0
    complaint: str | None = None
    latency: LatencyTable = field(default_factory=LatencyTable)
    batch_limit: int = 1
    stats: StatsMessage | None = None
    run: _Run | None = None
    pixels: SharedPixels = field(init=False)
    slots: SlotAllocator = field(init=False)
    _totals: _Totals = field(default_factory=_Totals)
    _lives: int = 0
    _last_forward_seconds: float = -1.0

    def __post_init__(self) -> None:
        self.pixels = SharedPixels.create(self.spec.pixels_bytes)
        self.slots = SlotAllocator(self.spec.pixels_bytes)

    def spawn(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path, now: float) -> None:
        """Start a process; each has a socket of its own, so that it never reads what was meant for its predecessor."""
        self._lives += 1
        endpoint = f"ipc://{folder}/{self.index}-{self._lives}"
        socket = context.socket(zmq.DEALER)
        socket.set_hwm(MAX_MESSAGES)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(endpoint)
        heard, lifeline = os.pipe2(os.O_CLOEXEC)
        arguments = {
            "index": self.index,
            "endpoint": endpoint,
            "lifeline": heard,
            "pixels": self.pixels.descriptor,
            "pixels-bytes": self.pixels.capacity,
            "loader": self.spec.loader,
            "policy": POLICY.dump_json(self.spec.policy).decode(),
            "max-consecutive-failures": self.spec.max_consecutive_failures,
            "log-level": self.spec.log_level,
        }
        command = [sys.executable, "-m", "depth_server.engine_process"]
        process = subprocess.Popen(  # noqa: S603 our own module, no shell
            [*command, *(f"--{name}={value}" for name, value in arguments.items())],
            env={**os.environ, **self.spec.environments[self.index]},
            stdin=subprocess.DEVNULL,
            pass_fds=(heard, self.pixels.descriptor),
        )
        os.close(heard)
        self.run = _Run(process, os.pidfd_open(process.pid), lifeline, socket)
        self.state, self.restart_at, self.complaint, self.last_heard = ProcessState.STARTING, None, None, now
        self._last_forward_seconds = -1.0
        logger.info("engine process %d starts with pid %d", self.index, process.pid)

    def become_ready(self, message: ReadyMessage, now: float) -> None:
        """Take over what the process measured."""
        self.state, self.ready_since = ProcessState.READY, now
        self.latency = LatencyTable()
        for cell in message.cells:
            self.latency.calibrate(size_of(cell), cell.batch_size, cell.seconds)
        self.batch_limit = message.batch_limit or self.spec.policy.max_batch_size

    def observe(self, size: Size, result: EngineResult) -> None:
        """Learn from a result; images of one batch say the same."""
        if result.forward_seconds != self._last_forward_seconds:
            self._last_forward_seconds = result.forward_seconds
            self.latency.observe(size, result.batch_size, result.forward_seconds)

    def outstanding_seconds(self) -> float:
        """Predict the time that everything it holds takes."""
        return queued_seconds(self._held(Lane.JOB), self.latency.margined_seconds, self._limit)

    def forecast(self, size: Size, lane: Lane) -> Forecast:
        """Predict for one more image; the running batch counts as if it had just begun."""
        running = self._running()
        ahead = self._held(lane)
        ahead.subtract(running)
        return forecast_one(
            +ahead,
            size,
            lane,
            queued_seconds(running, self.latency.margined_seconds, self._limit),
            self.latency.margined_seconds,
            self._limit,
        )

    def totals(self) -> tuple[float, float | None]:
        """Tell the seconds with a forward pass running, and those on the GPU, of all its processes together."""
        totals = self._totals.plus(self.stats)
        return totals.busy_seconds, totals.gpu_busy_seconds

    def kill(self, reason: str) -> None:
        """End the process at once; `bury` follows when it is gone."""
        if self.run is not None and self.run.process.poll() is None:
            logger.error("engine process %d is killed: %s", self.index, reason)
            self.complaint = self.complaint or reason
            self.run.process.kill()

    def bury(self) -> str:
        """Clean up after a process that has ended; returns how it ended, in words."""
        run = self.run
        if run is None:
            return "it was not started"
        code = run.process.wait()
        run.socket.close(linger=0)
        os.close(run.descriptor)
        with contextlib.suppress(OSError):
            os.close(run.lifeline)
        self.run = None
        self.state = ProcessState.DOWN
        self._totals, self.stats = self._totals.plus(self.stats), None
        ending = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"engine process {self.index} {ending}" + (f": {self.complaint}" if self.complaint else "")

    def _held(self, lane: Lane) -> Counter[tuple[Size, Lane]]:
        """Count what it holds that an image of this lane may have to wait for."""
        return Counter(
            (pending.size, pending.lane)
            for pending in self.pending.values()
            if lane is Lane.JOB or pending.lane is Lane.INTERACTIVE
        )

    def _running(self) -> Counter[tuple[Size, Lane]]:
        """Guess the running batch: the oldest image and what went along, all that was there up to the limit."""
        oldest = next(iter(self.pending.values()), None)
        if oldest is None:
            return Counter()
        queue = (oldest.size, oldest.lane)
        held = sum((pending.size, pending.lane) == queue for pending in self.pending.values())
        return Counter({queue: min(held, self.batch_limit)})

    def _limit(self, _: Size) -> int:
        return self.batch_limit
