"""Makes the engine that the settings ask for: in the process on a CPU, in processes of their own on GPUs."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from depth_server.batch_queue import BatchPolicy
from depth_server.engine import DepthModel, Engine
from depth_server.engine_handle import EngineProcessSpec
from depth_server.engine_pool import EnginePool
from depth_server.gpus import VISIBLE_DEVICES, visible_gpus
from depth_server.health import Health, HealthState
from depth_server.preprocess import WORK_UNIT_PIXELS, Size
from depth_server.settings import Device, Settings
from depth_server.shape_buckets import COMMON_ASPECTS, bucket_table, nearest_bucket
from depth_server.shared_memory import ALIGNMENT, BYTES_PER_INPUT_PIXEL
from depth_server.thread_engine import ThreadEngine

logger = logging.getLogger(__name__)

WARM_ASPECT: Final = 2.0
"""Buckets up to this aspect ratio are measured at the warm-up, if there is time."""


class HealthListener:
    """Lets the server's health follow the engine.

    Args:
        health: Told of it.
    """

    def __init__(self, health: Health) -> None:
        self._health = health

    def on_progress(self, detail: str) -> None:
        """See `PoolListener.on_progress`."""
        self._health.explain(detail)

    def on_available(self) -> None:
        """See `PoolListener.on_available`."""
        self._health.advance(HealthState.READY, "requests are served")

    def on_unavailable(self, reason: str) -> None:
        """See `PoolListener.on_unavailable`."""
        self._health.advance(HealthState.WARMING_UP, reason)

    def on_crash(self, reason: str) -> None:
        """See `PoolListener.on_crash`."""
        self._health.advance(HealthState.FAILED, reason)


def choose_engine(
    settings: Settings,
    health: Health,
    environment: Mapping[str, str],
    load_model: Callable[[Settings, Callable[[str], None]], DepthModel],
    list_gpus: Callable[[], list[str]],
) -> Engine:
    """Make the engine.

    Args:
        settings: What to run, and where.
        health: Follows the engine.
        environment: Of this process.
        load_model: Loads the model in this process; engine processes load it themselves, by the same settings.
        list_gpus: Lists the GPUs without touching CUDA.
    """
    listener = HealthListener(health)
    environments = process_environments(settings, environment, list_gpus)
    policy = batch_policy(settings)
    if not environments:
        return ThreadEngine(
            partial(load_model, settings, listener.on_progress),
            policy=policy,
            max_consecutive_failures=settings.max_consecutive_failures,
            on_crash=listener.on_crash,
        )
    logger.info("the model runs in %d processes", len(environments))
    spec = EngineProcessSpec(
        environments=tuple(environments),
        policy=policy,
        pixels_bytes=pixels_bytes(settings),
        max_consecutive_failures=settings.max_consecutive_failures,
        max_forward_seconds=settings.max_forward_seconds,
        restart_seconds=settings.engine_restart_seconds,
        max_restarts=settings.max_engine_restarts,
        log_level=settings.log_level,
    )
    return EnginePool(spec, listener)


def process_environments(
    settings: Settings, environment: Mapping[str, str], list_gpus: Callable[[], list[str]]
) -> list[dict[str, str]]:
    """Decide how many engine processes there are, and which GPU each one sees; none means to run in this process."""
    gpus = [] if settings.device is Device.CPU else visible_gpus(environment, list_gpus)
    count = settings.engine_processes
    if gpus:
        # More processes than GPUs share them in turn.
        return [{VISIBLE_DEVICES: gpus[index % len(gpus)]} for index in range(count or len(gpus))]
    if settings.device is Device.CUDA:
        # NVML sees nothing. CUDA may, or the process says in its own words why not; it is never touched here.
        return [{}] * (count or 1)
    return [{}] * count


def batch_policy(settings: Settings) -> BatchPolicy:
    """Tell how an engine queues and batches."""
    return BatchPolicy(
        max_waiting=settings.max_queued_requests,
        max_work_units=settings.max_queued_work_units,
        max_batch_size=settings.max_batch_size,
        slo_seconds=settings.slo_seconds,
        job_ageing_seconds=settings.job_ageing_seconds,
        overload=settings.overload_policy,
        warm_up_sizes=warm_up_sizes(settings.input_size, settings.max_long_side)
        if settings.calibration_seconds
        else (),
        warm_up_seconds=settings.calibration_seconds,
    )


def warm_up_sizes(lower_bound: int, max_long_side: int) -> tuple[Size, ...]:
    """List the buckets to measure: those of cameras first, then all up to twice as long as wide."""
    common = (
        nearest_bucket(Size(height, width), lower_bound, max_long_side)
        for aspect in COMMON_ASPECTS
        for height, width in ((aspect.denominator, aspect.numerator), (aspect.numerator, aspect.denominator))
    )
    others = (
        size
        for size in bucket_table(lower_bound, max_long_side)
        if max(size.width, size.height) <= WARM_ASPECT * min(size.width, size.height)
    )
    return tuple(dict.fromkeys((*common, *others)))


def pixels_bytes(settings: Settings) -> int:
    """Tell the memory that one engine process shares with this one: that of the images in work, in whole pages."""
    budget = int(settings.max_queued_work_units * WORK_UNIT_PIXELS * BYTES_PER_INPUT_PIXEL)
    largest = settings.max_long_side**2 * BYTES_PER_INPUT_PIXEL
    return -(-max(budget, largest) // ALIGNMENT) * ALIGNMENT
