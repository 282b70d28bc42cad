"""The queue of keys to reconcile: each key at most once in the queue and at most once in work. Pure, without a clock.

The guarantees are those of client-go's workqueue: an addition while the key is in work is not lost, it is handed out
again after `done`; of several additions the earliest time counts.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class WorkQueue(Generic[T]):
    """Keys with the time at which they are due. Times are seconds of whatever clock the caller uses."""

    def __init__(self) -> None:
        self._due: dict[T, float] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._sequence = itertools.count()
        self._in_work: set[T] = set()
        self._failures: dict[T, int] = {}

    def __len__(self) -> int:
        """Keys that wait, due or not."""
        return len(self._due)

    def add(self, key: T, at: float) -> None:
        """Have a key handed out at the given time, or earlier if that was already asked for."""
        if key in self._due and self._due[key] <= at:
            return
        self._due[key] = at
        if key not in self._in_work:
            heapq.heappush(self._heap, (at, next(self._sequence), key))

    def take(self, now: float) -> T | None:
        """Hand out the key that has been due longest, None if none is due. It has to be given back by `done`."""
        if (due := self.next_due()) is None or due > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        self._in_work.add(key)
        return key

    def done(self, key: T) -> None:
        """Give a key back; if it was added meanwhile it will be handed out again."""
        self._in_work.discard(key)
        if key in self._due:
            heapq.heappush(self._heap, (self._due[key], next(self._sequence), key))

    def next_due(self) -> float | None:
        """When the next key that is not in work is due, None if there is none."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._due.get(key) == at and key not in self._in_work:
                return at
            heapq.heappop(self._heap)
        return None

    def record_failure(self, key: T) -> int:
        """Count a failure and return how many there were in a row."""
        self._failures[key] = self._failures.get(key, 0) + 1
        return self._failures[key]

    def record_success(self, key: T) -> None:
        """End a row of failures."""
        self._failures.pop(key, None)


def backoff_seconds(failures: int, *, base: float, cap: float, jitter: float) -> float:
    """Delay before a retry: it doubles with every failure up to a cap, and at most half of it is left to chance.

    Args:
        failures: Failures in a row, at least 1.
        base: Longest delay after the first one.
        cap: Longest delay at all.
        jitter: Uniform in [0, 1): spreads retries of many keys.
    """
    longest = min(cap, base * 2.0 ** min(failures - 1, 32))
    return longest * (0.5 + 0.5 * jitter)
