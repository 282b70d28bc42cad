"""Runs `Reconciler.reconcile` for the keys in the work queue: bounded workers, retries with back-off, resync."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from depth_operator.errors import ApiError, ConflictError, NotLeadingError
from depth_operator.reconciler import Result
from depth_operator.work_queue import WorkQueue, backoff_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from depth_operator.api.naming import Key
    from depth_operator.ports import Cluster, MonotonicClock
    from depth_operator.telemetry import ReconcileMetrics

RESYNC_SPREAD = 0.1
"""Share of the resync interval over which the keys of one resync are spread."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """Bounds of the controller, from the settings of the same names."""

    workers: int
    resync_interval_seconds: float
    reconcile_timeout_seconds: float
    backoff_base_seconds: float
    backoff_cap_seconds: float


class Reconcile(Protocol):
    """`Reconciler.reconcile`."""

    async def __call__(self, key: Key, *, full: bool = False) -> Result:
        """Reconcile one DepthService."""
        ...


class Controller:
    """Owns the queue and the tasks that work it off. Everything happens on one event loop."""

    def __init__(
        self,
        reconcile: Reconcile,
        cluster: Cluster,
        config: ControllerConfig,
        metrics: ReconcileMetrics,
        *,
        monotonic: MonotonicClock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._reconcile = reconcile
        self._cluster = cluster
        self._config = config
        self._metrics = metrics
        self._monotonic = monotonic
        self._jitter = jitter
        self._queue: WorkQueue[Key] = WorkQueue()
        self._full: set[Key] = set()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def enqueue(self, key: Key) -> None:
        """Have a key reconciled soon. Cheap, and safe to call for every event."""
        self._add(key, self._monotonic())

    @property
    def is_alive(self) -> bool:
        """Whether every task that was started still runs."""
        return all(not task.done() for task in self._tasks)

    def start(self) -> None:
        """Start the workers and the resync."""
        self._tasks = [
            asyncio.create_task(self._work(), name=f"reconcile worker {number}")
            for number in range(self._config.workers)
        ]
        self._tasks.append(asyncio.create_task(self._resync_forever(), name="resync"))

    async def stop(self) -> None:
        """Cancel all tasks and wait for them; a reconcile that is cut short is continued by the next leader."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []

    def _add(self, key: Key, at: float) -> None:
        self._queue.add(key, at)
        self._metrics.queue_depth.set(len(self._queue))
        self._wake.set()

    async def _work(self) -> None:
        while True:
            key = self._queue.take(self._monotonic())
            if key is None:
                await self._sleep_until_due()
                continue
            self._metrics.queue_depth.set(len(self._queue))
            try:
                await self._run(key)
            finally:
                self._queue.done(key)
                self._wake.set()

    async def _sleep_until_due(self) -> None:
        self._wake.clear()
        due = self._queue.next_due()
        timeout = None if due is None else max(0.0, due - self._monotonic())
        # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that meets its end, and `stop` would hang.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    async def _run(self, key: Key) -> None:
        """Reconcile one key and put it back where it has to be seen again. The outermost boundary of a reconcile."""
        full = key in self._full
        self._full.discard(key)
        started = self._monotonic()
        try:
            async with asyncio.timeout(self._config.reconcile_timeout_seconds):
                result = await self._reconcile(key, full=full)
            outcome = "retry" if result.retry else "success"
        except NotLeadingError as error:
            logger.warning("reconcile stopped: %s", error, extra={"key": str(key), "action": "reconcile"})
            return
        except ConflictError as error:
            logger.info("changed meanwhile: %s", error, extra={"key": str(key), "action": "reconcile"})
            outcome, result = "retry", Result(retry=True)
        except ApiError as error:
            logger.warning("reconcile failed: %s", error, extra={"key": str(key), "action": "reconcile"})
            outcome, result = "error", Result(retry=True, retry_after_seconds=error.retry_after_seconds)
        except TimeoutError:
            limit = self._config.reconcile_timeout_seconds
            logger.warning("reconcile took more than %s s", limit, extra={"key": str(key), "action": "reconcile"})
            outcome, result = "error", Result(retry=True)
        except Exception:  # a defect in one object's reconcile must not end the worker: it is logged and retried
            logger.exception("reconcile broke", extra={"key": str(key), "action": "reconcile"})
            outcome, result = "error", Result(retry=True)
        if full and outcome != "success":
            self._full.add(key)
        self._metrics.observe(outcome, self._monotonic() - started)
        self._reschedule(key, result)

    def _reschedule(self, key: Key, result: Result) -> None:
        """Put the key back once: the queue takes the earlier of two times, which would undo the back-off."""
        now = self._monotonic()
        if result.retry:
            delay = backoff_seconds(
                self._queue.record_failure(key),
                base=self._config.backoff_base_seconds,
                cap=self._config.backoff_cap_seconds,
                jitter=self._jitter(),
            )
            self._add(key, now + max(delay, result.retry_after_seconds or 0.0))
            return
        self._queue.record_success(key)
        if result.requeue_after_seconds is not None:
            self._add(key, now + result.requeue_after_seconds)

    async def _resync_forever(self) -> None:
        """Have every DepthService applied in full again and again: what an event failed to tell is found here."""
        interval = self._config.resync_interval_seconds
        while True:
            await asyncio.sleep(interval)
            try:
                keys = await self._cluster.list_depth_services()
            except ApiError as error:
                logger.warning("resync failed: %s", error, extra={"action": "resync"})
                continue
            now = self._monotonic()
            for key in keys:
                self._full.add(key)
                self._add(key, now + self._jitter() * interval * RESYNC_SPREAD)
