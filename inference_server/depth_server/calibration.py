"""Measures a model at the warm-up: how long batches of the common sizes take."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from depth_server.batch_queue import BatchPolicy
from depth_server.batching import BATCH_SIZES
from depth_server.errors import EngineMemoryError
from depth_server.latency import USEFUL_BATCH_COST, LatencyCell
from depth_server.preprocess import Size

logger = logging.getLogger(__name__)

SLOW_SECONDS: Final = 0.2
"""Where one image takes longer, as on a CPU, only the first bucket is measured: a start is not worth minutes."""


class _Forward(Protocol):
    def __call__(self, pixel_values: NDArray[np.float32], /) -> object: ...


@dataclass(slots=True)
class CalibrationReport:
    """What was measured.

    Attributes:
        cells: Durations.
        limits: Largest batches of buckets for which memory was short.
    """

    cells: list[LatencyCell] = field(default_factory=list)
    limits: dict[Size, int] = field(default_factory=dict)


def calibrate(forward: _Forward, policy: BatchPolicy, clock: Callable[[], float]) -> CalibrationReport:
    """Run batches on noise until the time is up; the first bucket's batches come first.

    The first pass at a new shape allocates and picks kernels, so each shape runs twice and the second pass counts.
    Larger batches are left out where two images together gain nothing, and further buckets where one image is slow:
    there the predictions follow from the first bucket.

    Args:
        forward: (N, 3, H, W) -> depth.
        policy: What to measure and for how long.
        clock: Monotonic seconds.
    """
    report = CalibrationReport()
    began = clock()
    largest = policy.max_batch_size
    for bucket in policy.warm_up_sizes:
        alone = 0.0
        for batch_size in sorted(size for size in BATCH_SIZES if size <= largest):
            left = began + policy.warm_up_seconds - clock()
            if 2 * batch_size * alone > left or left < 0:
                logger.info("the warm-up measures no more, to end within %g s", policy.warm_up_seconds)
                return report
            seconds = _measure(forward, bucket, batch_size, clock)
            if seconds is None:
                report.limits[bucket] = max(batch_size // 2, 1)
                break
            report.cells.append(LatencyCell(bucket, batch_size, seconds))
            alone = alone or seconds
            if batch_size == 2 and seconds > 2 * USEFUL_BATCH_COST * alone:
                largest = 1
        if alone > SLOW_SECONDS:
            break
    return report


def _measure(forward: _Forward, bucket: Size, batch_size: int, clock: Callable[[], float]) -> float | None:
    """Time a forward pass; None if the device has no memory for it."""
    shape = (batch_size, 3, bucket.height, bucket.width)
    batch = np.random.Generator(np.random.PCG64(0)).standard_normal(shape, dtype=np.float32)
    try:
        forward(batch)
        began = clock()
        forward(batch)
    except EngineMemoryError:
        logger.warning("no memory for %d images of %dx%d", batch_size, bucket.width, bucket.height)
        return None
    return clock() - began
