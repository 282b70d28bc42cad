"""Measures a model at the warm-up: how long batches of the common sizes take."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from depth_server.batch_queue import BatchPolicy
from depth_server.batching import BATCH_SIZES
from depth_server.errors import EngineMemoryError
from depth_server.latency import LatencyCell
from depth_server.preprocess import Size

logger = logging.getLogger(__name__)


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
    """Run batches of each size on noise until the time is up; the first bucket's batches come first.

    The first pass at a new shape allocates and picks kernels, so each shape runs twice and the second pass counts.

    Args:
        forward: (N, 3, H, W) -> depth.
        policy: What to measure and for how long.
        clock: Monotonic seconds.
    """
    report = CalibrationReport()
    began = clock()
    for bucket in policy.warm_up_sizes:
        noise = np.random.Generator(np.random.PCG64(0)).standard_normal(
            (1, 3, bucket.height, bucket.width), dtype=np.float32
        )
        for batch_size in sorted(_allowed(policy.max_batch_size)):
            if clock() - began > policy.warm_up_seconds:
                logger.info("the warm-up stops measuring after %g s", policy.warm_up_seconds)
                return report
            batch = np.repeat(noise, batch_size, axis=0)
            try:
                forward(batch)
                again = clock()
                forward(batch)
            except EngineMemoryError:
                report.limits[bucket] = max(batch_size // 2, 1)
                logger.warning("no memory for %d images of %dx%d", batch_size, bucket.width, bucket.height)
                break
            report.cells.append(LatencyCell(bucket, batch_size, clock() - again))
    return report


def _allowed(most: int) -> Sequence[int]:
    return [size for size in BATCH_SIZES if size <= most]
