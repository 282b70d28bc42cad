"""Plans the next batch from what waits; pure: no clock, no I/O, no model.

The rules:

- A batch forms from what waits when the engine is free. No timer holds it back.
- A batch has one size of input and one lane. Of all that can be in time, the most urgent image chooses both.
- The batch has 8, 4, 2 or 1 images, as many as wait and the limit of the bucket allows.
- What cannot be finished in time is not begun. Where the most urgent image would be too late with the full batch, the
  batch is shrunk if that makes nobody else late; otherwise the image is dropped, as in Nexus (Shen et al., SOSP 2019):
  under overload one image's deadline must not cost the others their batch.
- The engine is never idle while somebody waits whose deadline can be met.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from depth_server.preprocess import Size

BATCH_SIZES: Final = (8, 4, 2, 1)
"""Images of a batch. Beyond 8 the throughput of a ViT-L on one H200 grows by less than 5 %."""

BatchSeconds = Callable[[Size, int], float]
"""Predicted duration of a forward pass: bucket, images -> seconds."""

BatchLimit = Callable[[Size], int]
"""Largest batch of a bucket, at least 1."""


class Lane(StrEnum):
    """Priority of an image."""

    INTERACTIVE = "interactive"
    """Somebody waits for the answer."""
    JOB = "job"
    """The answer is fetched later; served after interactive images, until it has waited long enough."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image that waits. Times are monotonic seconds.

    Attributes:
        key: Identity.
        bucket: Size of the input.
        lane: Priority.
        arrival: When it was submitted.
        due: When it should be finished; the order of service.
        deadline: When nobody wants it any more; infinity if there is no such time.
    """

    key: int
    bucket: Size
    lane: Lane
    arrival: float
    due: float
    deadline: float = math.inf

    @property
    def urgency(self) -> tuple[float, float, int]:
        """Sort key: the earliest due first, then the earliest arrival."""
        return (self.due, self.arrival, self.key)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What to do with what waits.

    Attributes:
        batch: Images of the next forward pass, most urgent first; one bucket, one lane.
        shed: Images dropped because they would miss their due time and others need the engine.
        expired: Images dropped because their deadline cannot be met any more.
    """

    batch: tuple[Entry, ...] = ()
    shed: tuple[Entry, ...] = ()
    expired: tuple[Entry, ...] = ()


def make_entry(
    key: int, bucket: Size, lane: Lane, *, now: float, deadline: float | None, slo: float, ageing: float
) -> Entry:
    """Give an image its place in the order of service.

    Args:
        key: Identity.
        bucket: Size of the input.
        lane: Priority.
        now: Monotonic seconds.
        deadline: When nobody wants it any more; None if there is no such time.
        slo: Seconds after which an interactive image is due.
        ageing: Seconds after which a job is due; then it goes before interactive images that are due later.
    """
    last = math.inf if deadline is None else deadline
    # A job's own deadline must not let it overtake people who wait.
    due = min(now + slo, last) if lane is Lane.INTERACTIVE else now + ageing
    return Entry(key, bucket, lane, now, due, last)


def round_down(count: int, limit: int) -> int:
    """Give the largest batch size that neither exceeds `count` nor `limit`; both at least 1."""
    most = max(min(count, limit), 1)
    return next(size for size in BATCH_SIZES if size <= most)


def plan_batch(entries: Iterable[Entry], start: float, seconds: BatchSeconds, limit: BatchLimit) -> BatchPlan:
    """Plan the batch that starts at `start`.

    Args:
        entries: All that wait, in any order.
        start: When the engine is free, in monotonic seconds.
        seconds: Predicts forward passes.
        limit: Largest batches.

    Returns:
        A plan; its batch is empty only if nothing waits whose deadline can be met.
    """
    expired: list[Entry] = []
    late: list[Entry] = []
    candidates: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: entry.urgency):
        alone = start + seconds(entry.bucket, 1)
        if alone > entry.deadline:
            expired.append(entry)
        elif entry.lane is Lane.INTERACTIVE and alone > entry.due:
            late.append(entry)
        else:
            candidates.append(entry)
    # Late images are shed only in favour of images of their own lane that can still be in time.
    shedding = any(entry.lane is Lane.INTERACTIVE for entry in candidates)
    if not shedding:
        candidates = sorted([*late, *candidates], key=lambda entry: entry.urgency)
        late = []
    if not candidates:
        return BatchPlan(expired=tuple(expired))
    head = candidates[0]
    queue = [entry for entry in candidates if (entry.bucket, entry.lane) == (head.bucket, head.lane)]
    window = _Window(head.bucket, start, seconds, limit(head.bucket), shedding=shedding)
    batch, dropped = window.choose(queue)
    for entry in dropped:
        (expired if window.last_finish(entry) == entry.deadline else late).append(entry)
    return BatchPlan(tuple(batch), tuple(late), tuple(expired))


def queued_seconds(counts: Counter[tuple[Size, Lane]], seconds: BatchSeconds, limit: BatchLimit) -> float:
    """Predict how long the engine needs for images of these buckets and lanes, in batches as large as allowed."""
    return sum(batches_seconds(bucket, count, seconds, limit) for (bucket, _), count in counts.items())


def batches_seconds(bucket: Size, count: int, seconds: BatchSeconds, limit: BatchLimit) -> float:
    """Predict how long `count` images of one bucket take."""
    total = 0.0
    largest = round_down(max(count, 1), limit(bucket))
    total += (count // largest) * seconds(bucket, largest)
    rest = count % largest
    while rest:
        size = round_down(rest, largest)
        total += seconds(bucket, size)
        rest -= size
    return total


class _Window:
    """Chooses how many images of one bucket and lane start now.

    Args:
        bucket: Their size.
        start: When the batch starts.
        seconds: Predicts forward passes.
        limit: Largest batch.
        shedding: Whether an interactive image that would be late gives way.
    """

    def __init__(self, bucket: Size, start: float, seconds: BatchSeconds, limit: int, *, shedding: bool) -> None:
        self._start = start
        self._shedding = shedding
        self._limit = limit
        self._seconds = {size: seconds(bucket, size) for size in BATCH_SIZES}

    def last_finish(self, entry: Entry) -> float:
        """Say when the image must be finished not to be dropped."""
        return entry.due if self._shedding and entry.lane is Lane.INTERACTIVE else entry.deadline

    def choose(self, queue: list[Entry]) -> tuple[list[Entry], list[Entry]]:
        """Split off the batch; each image of `queue` can be finished in time if it starts alone.

        Returns:
            The batch and what has to give way to it.
        """
        waiting = list(queue)
        dropped: list[Entry] = []
        while True:
            size = round_down(len(waiting), self._limit)
            tight = self._first_late(waiting, size, self._start)
            if tight is None:
                return waiting[:size], dropped
            smaller = self._shrunk(waiting, size)
            if smaller:
                return waiting[:smaller], dropped
            waiting.remove(tight)
            dropped.append(tight)

    def _first_late(self, waiting: Sequence[Entry], size: int, start: float) -> Entry | None:
        finish = start + self._seconds[size]
        return next((entry for entry in waiting[:size] if self.last_finish(entry) < finish), None)

    def _shrunk(self, waiting: Sequence[Entry], size: int) -> int:
        """Give the largest smaller batch with which nobody of this queue is late; 0 if there is none."""
        for smaller in BATCH_SIZES:
            if (
                smaller < size
                and self._first_late(waiting, smaller, self._start) is None
                and self._meets_all(waiting[smaller:], self._start + self._seconds[smaller])
            ):
                return smaller
        return 0

    def _meets_all(self, waiting: Sequence[Entry], start: float) -> bool:
        while waiting:
            most = round_down(len(waiting), self._limit)
            fitting = (size for size in BATCH_SIZES if size <= most and self._first_late(waiting, size, start) is None)
            size = next(fitting, 0)
            if not size:
                return False
            waiting, start = waiting[size:], start + self._seconds[size]
        return True
