"""What waits for one engine: bounds, order, predictions and batch limits. Not thread-safe: its engine holds a lock."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Final, Generic, TypeVar

from depth_server.batching import (
    BATCH_SIZES,
    BatchLimit,
    BatchPlan,
    BatchSeconds,
    Entry,
    Lane,
    batches_seconds,
    make_entry,
    plan_batch,
    queued_seconds,
    round_down,
)
from depth_server.errors import DeadlineExceededError, DepthServerError, DroppedError, OverloadedError
from depth_server.latency import LatencyTable
from depth_server.preprocess import WORK_UNIT_PIXELS, Size

Payload = TypeVar("Payload")
Result = TypeVar("Result")

SLO_SHARE: Final = 0.9
"""Share of the SLO that a request may use until its depth is there; the rest is for what no prediction sees."""

DUE_SHARE: Final = 0.97
"""Share of the SLO after which the engine counts an image as late, from its submission; encoding takes the rest. Above
`SLO_SHARE`, so that a slightly wrong prediction costs nobody who was accepted."""

REFERENCE_SIZE: Final = Size(518, 518)
"""Size assumed for an image that nobody has seen yet."""


MAX_RETRY_AFTER_SECONDS: Final = 60
"""Longest `Retry-After`; replicas come and go faster than that."""


class OverloadPolicy(StrEnum):
    """What gives way when more comes than can be served in time."""

    REJECT = "Reject"
    """The newcomer: it is refused before any work."""
    DROP_OLDEST = "DropOldest"
    """The interactive image that has waited longest: for cameras, where only the newest frame matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How an engine queues and batches.

    Attributes:
        max_waiting: Images that may wait.
        max_work_units: Work units that may wait; bounds their memory (one is 3.2 MB).
        max_batch_size: Images of the largest batch.
        slo_seconds: Seconds after which an interactive image should be answered.
        job_ageing_seconds: Seconds after which a job is due.
        overload: What gives way under overload.
        warm_up_sizes: Buckets measured at the warm-up, the most common first.
        warm_up_seconds: Time after which no further measurement is begun.
    """

    max_waiting: int = 64
    max_work_units: float = 128.0
    max_batch_size: int = BATCH_SIZES[0]
    slo_seconds: float = 10.0
    job_ageing_seconds: float = 30.0
    overload: OverloadPolicy = OverloadPolicy.REJECT
    warm_up_sizes: tuple[Size, ...] = ()
    warm_up_seconds: float = 20.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """Prediction for one more image, with a margin that 95 of 100 forward passes keep.

    Attributes:
        wait_seconds: Until the batch starts that it is in.
        forward_seconds: Its batch, if nothing else comes.
        full_seconds: The largest batch, which it is in if enough comes.
        image_seconds: Time that the engine needs for one more image in the largest batch.
    """

    wait_seconds: float
    forward_seconds: float
    full_seconds: float
    image_seconds: float

    @property
    def finish_seconds(self) -> float:
        """Until its depth is there if nothing else comes."""
        return self.wait_seconds + self.forward_seconds

    @property
    def latest_finish_seconds(self) -> float:
        """Until its depth is there if others fill its batch."""
        return self.wait_seconds + max(self.forward_seconds, self.full_seconds)


@dataclass(slots=True, eq=False)
class Task(Generic[Payload, Result]):
    """An image that waits, with the promise of its depth."""

    entry: Entry
    payload: Payload
    future: Future[Result] = field(default_factory=Future)
    is_claimed: bool = False

    def claim(self) -> bool:
        """Take it for a forward pass; False if its future was cancelled."""
        if not self.is_claimed:
            self.is_claimed = self.future.set_running_or_notify_cancel()
        return self.is_claimed


Drop = Callable[[Task[Payload, Result], DepthServerError], None]
"""Fails a task that was dropped."""


class BatchQueue(Generic[Payload, Result]):
    """The queue of one engine.

    Args:
        policy: Bounds and times.
        drop: Called with each task that is dropped and why.
    """

    def __init__(self, policy: BatchPolicy, drop: Drop[Payload, Result]) -> None:
        self.policy = policy
        self.latency = LatencyTable()
        self._drop = drop
        self._keys = count()
        self._tasks: dict[int, Task[Payload, Result]] = {}
        self._work_units = 0.0
        self._default_limit = round_down(policy.max_batch_size, policy.max_batch_size)
        self._limits: dict[Size, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        """Images that wait and that somebody still wants."""
        return sum(not task.future.cancelled() for task in self._tasks.values())

    def limit(self, bucket: Size) -> int:
        """Give the largest batch of a bucket."""
        return self._limits.get(bucket, self._default_limit)

    def set_default_limit(self, limit: int) -> None:
        """Set the largest batch of buckets that have no limit of their own."""
        self._default_limit = round_down(limit, self.policy.max_batch_size)

    def lower_limit(self, bucket: Size, limit: int) -> None:
        """Lower the largest batch of a bucket, for as long as the engine lives."""
        self._limits[bucket] = min(self.limit(bucket), round_down(limit, limit))

    def add(
        self, bucket: Size, payload: Payload, *, lane: Lane, deadline: float | None, now: float, busy_seconds: float
    ) -> Task[Payload, Result]:
        """Enqueue an image.

        Args:
            bucket: Its size.
            payload: Its pixels, or where they are.
            lane: Its priority.
            deadline: When nobody wants it any more, in monotonic seconds.
            now: Monotonic seconds.
            busy_seconds: Until the engine is free.

        Raises:
            OverloadedError: The queue is full.
            DeadlineExceededError: The deadline cannot be met even if the image starts at once.
        """
        if deadline is not None and now + self.latency.seconds(bucket, 1) > deadline:
            message = "the deadline cannot be met, so the image was not given to the engine"
            raise DeadlineExceededError(message)
        entry = make_entry(
            next(self._keys),
            bucket,
            lane,
            now=now,
            deadline=deadline,
            slo=DUE_SHARE * self.policy.slo_seconds,
            ageing=self.policy.job_ageing_seconds,
        )
        self._make_room(entry, now, busy_seconds)
        task: Task[Payload, Result] = Task(entry, payload)
        self._tasks[entry.key] = task
        self._work_units += bucket.work_units
        return task

    def take(self, start: float) -> list[Task[Payload, Result]]:
        """Take the batch that starts at `start`; empty if nobody waits whose deadline can be met."""
        self._forget_cancelled()
        while True:
            plan = self._plan(start)
            self._drop_planned(plan)
            if not plan.batch:
                return []
            if batch := self._claim(plan.batch):
                return batch

    def take_full(self, start: float) -> list[Task[Payload, Result]]:
        """Take the batch that starts at `start` only if no later arrival could make it larger."""
        self._forget_cancelled()
        plan = self._plan(start)
        if not plan.batch or len(plan.batch) < self.limit(plan.batch[0].bucket):
            return []
        self._drop_planned(plan)
        return self._claim(plan.batch)

    def put_back(self, tasks: Iterable[Task[Payload, Result]]) -> None:
        """Return tasks that were taken and not begun."""
        for task in tasks:
            self._tasks[task.entry.key] = task
            self._work_units += task.entry.bucket.work_units

    def clear(self) -> list[Task[Payload, Result]]:
        """Take everything out."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        self._work_units = 0.0
        return tasks

    def forecast(self, bucket: Size, lane: Lane, now: float, busy_seconds: float) -> Forecast:
        """Predict for an image that would be submitted now."""
        entry = make_entry(
            0,
            bucket,
            lane,
            now=now,
            deadline=None,
            slo=DUE_SHARE * self.policy.slo_seconds,
            ageing=self.policy.job_ageing_seconds,
        )
        ahead = Counter(
            (task.entry.bucket, task.entry.lane)
            for task in self._tasks.values()
            if task.entry.due <= entry.due and not task.future.cancelled()
        )
        return forecast_one(ahead, bucket, lane, busy_seconds, self.latency.margined_seconds, self.limit)

    def _plan(self, start: float) -> BatchPlan:
        entries = (task.entry for task in self._tasks.values())
        return plan_batch(entries, start, self.latency.seconds, self.limit)

    def _claim(self, entries: Iterable[Entry]) -> list[Task[Payload, Result]]:
        batch = [task for entry in entries if (task := self._remove(entry)).claim()]
        if not batch:
            return []
        # A future may have been cancelled this very moment; sizes stay those that the model is warm for.
        size = round_down(len(batch), len(batch))
        self.put_back(batch[size:])
        return batch[:size]

    def _drop_planned(self, plan: BatchPlan) -> None:
        for entry in plan.shed:
            message = "the request waited too long and gave way to others; try again later"
            self._drop(self._remove(entry), DroppedError(message))
        for entry in plan.expired:
            message = "the deadline could not be met any more, so the image was not given to the model"
            self._drop(self._remove(entry), DeadlineExceededError(message))

    def _make_room(self, entry: Entry, now: float, busy_seconds: float) -> None:
        if self._overflow(entry.bucket):
            self._forget_cancelled()
        if self.policy.overload is OverloadPolicy.DROP_OLDEST and entry.lane is Lane.INTERACTIVE:
            self._drop_oldest(entry, now, busy_seconds)
        if overflow := self._overflow(entry.bucket):
            wait = self.forecast(entry.bucket, entry.lane, now, busy_seconds).wait_seconds
            raise OverloadedError(overflow, retry_after_seconds=retry_after(wait))

    def _drop_oldest(self, entry: Entry, now: float, busy_seconds: float) -> None:
        limit = SLO_SHARE * self.policy.slo_seconds
        for task in list(self._tasks.values()):  # in the order of arrival
            finish = self.forecast(entry.bucket, entry.lane, now, busy_seconds).latest_finish_seconds
            if finish <= limit and not self._overflow(entry.bucket):
                return
            if task.entry.lane is Lane.INTERACTIVE:
                message = "a newer request took the place of this one"
                self._drop(self._remove(task.entry), DroppedError(message))

    def _overflow(self, bucket: Size) -> str | None:
        if len(self._tasks) >= self.policy.max_waiting:
            return f"{len(self._tasks)} images already wait for the engine"
        if self._tasks and self._work_units + bucket.work_units > self.policy.max_work_units:
            megabytes = self._work_units * WORK_UNIT_PIXELS * 12 / 1e6
            return f"the images that wait for the engine use {megabytes:.0f} MB, all the memory meant for them"
        return None

    def _forget_cancelled(self) -> None:
        for task in [task for task in self._tasks.values() if task.future.cancelled()]:
            self._remove(task.entry)

    def _remove(self, entry: Entry) -> Task[Payload, Result]:
        task = self._tasks.pop(entry.key)
        self._work_units = self._work_units - entry.bucket.work_units if self._tasks else 0.0
        return task


def forecast_one(
    ahead: Counter[tuple[Size, Lane]],
    bucket: Size,
    lane: Lane,
    busy_seconds: float,
    seconds: BatchSeconds,
    limit: BatchLimit,
) -> Forecast:
    """Predict for one more image.

    Args:
        ahead: What waits and goes first or along.
        bucket: Of the image.
        lane: Of the image.
        busy_seconds: Until the engine is free.
        seconds: Predicts forward passes.
        limit: Largest batches.
    """
    largest = round_down(limit(bucket), limit(bucket))
    full, along = divmod(ahead[bucket, lane], largest)
    others = Counter({queue: count for queue, count in ahead.items() if queue != (bucket, lane)})
    return Forecast(
        wait_seconds=busy_seconds + queued_seconds(others, seconds, limit) + full * seconds(bucket, largest),
        forward_seconds=batches_seconds(bucket, along + 1, seconds, limit),
        full_seconds=seconds(bucket, largest),
        image_seconds=seconds(bucket, largest) / largest,
    )


def retry_after(expected_wait_seconds: float) -> int:
    """Turn an estimated wait into a `Retry-After` between one second and a minute."""
    return min(max(math.ceil(expected_wait_seconds), 1), MAX_RETRY_AFTER_SECONDS)
