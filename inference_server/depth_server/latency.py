"""Predicts how long forward passes take, from those that were measured; no I/O, no clock.

A cell is a bucket and a batch size. Cells are measured at the warm-up and follow what is observed afterwards by an
exponentially weighted moving average. What was never measured is derived from a line through the measured cells: the
cost of a forward pass is nearly linear in its pixels (about 1.3 ms + 3.05 ms per image at 518x518 for ViT-L on one
H200, batches of 4 and more).
"""

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from depth_server.batching import BATCH_SIZES
from depth_server.preprocess import Size

SMOOTHING: Final = 0.2
"""Weight of the newest forward pass in a cell."""

MAX_CELLS: Final = 512
"""Cells that are kept; `exact` requests bring sizes without number. The least recently observed one goes."""

MARGIN_WINDOW: Final = 64
"""Newest forward passes that the margin is computed from."""

MARGIN_QUANTILE: Final = 0.95
"""Share of forward passes that should take no longer than predicted with the margin."""

MAX_MARGIN: Final = 3.0
"""Largest margin: one hiccup must not make the server refuse everything."""

USEFUL_BATCH_COST: Final = 0.9
"""A batch is worth its latency if an image in it costs at most this share of an image alone."""

DEFAULT_SECONDS_PER_WORK_UNIT: Final = 0.1
"""Prediction before anything was measured, between a GPU's 5 ms and a CPU's seconds."""


@dataclass(frozen=True, slots=True)
class LatencyCell:
    """One measured duration, for the wire and for reports.

    Attributes:
        bucket: Size of the input.
        batch_size: Images.
        seconds: Smoothed duration of the forward pass.
    """

    bucket: Size
    batch_size: int
    seconds: float


class LatencyTable:
    """Durations of forward passes; not thread-safe."""

    def __init__(self) -> None:
        self._cells: OrderedDict[tuple[Size, int], float] = OrderedDict()
        self._ratios: deque[float] = deque(maxlen=MARGIN_WINDOW)
        self._margin = 1.0
        self._line: tuple[float, float] | None = None

    def observe(self, bucket: Size, batch_size: int, seconds: float) -> None:
        """Record a forward pass of a server that is under load."""
        known = self._cells.get((bucket, batch_size))
        if known is not None and known > 0:
            self._ratios.append(seconds / known)
            self._margin = _margin(self._ratios)
        self._set(bucket, batch_size, seconds if known is None else known + SMOOTHING * (seconds - known))

    def calibrate(self, bucket: Size, batch_size: int, seconds: float) -> None:
        """Record a forward pass of the warm-up: of several the shortest counts."""
        known = self._cells.get((bucket, batch_size))
        self._set(bucket, batch_size, seconds if known is None else min(known, seconds))

    def seconds(self, bucket: Size, batch_size: int) -> float:
        """Predict the mean duration of a forward pass."""
        known = self._cells.get((bucket, batch_size))
        if known is not None:
            return known
        work = bucket.work_units * batch_size
        if not self._cells:
            return DEFAULT_SECONDS_PER_WORK_UNIT * work
        if self._line is None:
            self._line = _fit([(size.work_units * count, value) for (size, count), value in self._cells.items()])
        fixed, per_unit = self._line
        return fixed + per_unit * work

    def margined_seconds(self, bucket: Size, batch_size: int) -> float:
        """Predict a duration that 95 of 100 forward passes keep."""
        return self.seconds(bucket, batch_size) * self._margin

    @property
    def margin(self) -> float:
        """Factor between the two predictions, 1 to 3."""
        return self._margin

    def cells(self) -> list[LatencyCell]:
        """List what was measured."""
        return [LatencyCell(bucket, count, seconds) for (bucket, count), seconds in self._cells.items()]

    def useful_batch(self, bucket: Size, most: int) -> int:
        """Give the largest measured batch that is worth its latency.

        A CPU gains nothing from batches: each image of a batch of 8 would wait for all 8.

        Args:
            bucket: A bucket whose batches were measured.
            most: Largest batch allowed.
        """
        alone = self._cells.get((bucket, 1))
        if alone is None:
            return most
        useful = 1
        for size in sorted(BATCH_SIZES):
            seconds = self._cells.get((bucket, size))
            if size <= most and seconds is not None and seconds / size <= USEFUL_BATCH_COST * alone:
                useful = size
        return useful

    def _set(self, bucket: Size, batch_size: int, seconds: float) -> None:
        self._cells[bucket, batch_size] = seconds
        self._cells.move_to_end((bucket, batch_size))
        if len(self._cells) > MAX_CELLS:
            self._cells.popitem(last=False)
        self._line = None


def _margin(ratios: deque[float]) -> float:
    ordered = sorted(ratios)
    return min(max(ordered[math.ceil(MARGIN_QUANTILE * len(ordered)) - 1], 1.0), MAX_MARGIN)


def _fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Fit seconds = fixed + per_unit * work by least squares, both not negative."""
    count = len(points)
    mean_work = sum(work for work, _ in points) / count
    mean_seconds = sum(seconds for _, seconds in points) / count
    spread = sum((work - mean_work) ** 2 for work, _ in points)
    if spread > 0:
        slope = sum((work - mean_work) * (seconds - mean_seconds) for work, seconds in points) / spread
        fixed = mean_seconds - slope * mean_work
        if slope > 0 and fixed >= 0:
            return fixed, slope
    # One size only, or noise: through the origin.
    return 0.0, sum(work * seconds for work, seconds in points) / sum(work * work for work, _ in points)
