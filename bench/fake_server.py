"""The whole server around a model of known service time: `python -m bench.fake_server --fixed-seconds 0.04`.

Everything but the model is what `python -m depth_server` runs; settings are the same environment variables.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from depth_server.batch_queue import BatchPolicy
from depth_server.engine import Engine
from depth_server.engine_choice import HealthListener, batch_policy, pixels_bytes
from depth_server.engine_handle import EngineProcessSpec
from depth_server.engine_pool import EnginePool
from depth_server.errors import StartupError
from depth_server.fake import FakeDepthModel
from depth_server.health import Health
from depth_server.serving import ServerProcess, report_startup_failure
from depth_server.settings import Settings, load_settings
from depth_server.thread_engine import ThreadEngine

FIXED_VARIABLE = "FAKE_FIXED_SECONDS"
PER_IMAGE_VARIABLE = "FAKE_SECONDS_PER_IMAGE"


def load_fake(_: Callable[[str], None]) -> FakeDepthModel:
    """Make the model in an engine process."""
    return FakeDepthModel(float(os.environ[FIXED_VARIABLE]), float(os.environ[PER_IMAGE_VARIABLE]))


def fake_engine(
    settings: Settings, health: Health, processes: int, fixed_seconds: float, seconds_per_image: float
) -> Engine:
    listener, policy = HealthListener(health), batch_policy(settings)
    if not processes:
        return ThreadEngine(
            lambda: FakeDepthModel(fixed_seconds, seconds_per_image),
            policy=policy,
            max_consecutive_failures=settings.max_consecutive_failures,
            on_crash=listener.on_crash,
        )
    return EnginePool(process_spec(settings, policy, processes, fixed_seconds, seconds_per_image), listener)


def process_spec(
    settings: Settings, policy: BatchPolicy, processes: int, fixed_seconds: float, seconds_per_image: float
) -> EngineProcessSpec:
    root = Path(__file__).parents[1]
    environment = {
        FIXED_VARIABLE: str(fixed_seconds),
        PER_IMAGE_VARIABLE: str(seconds_per_image),
        "PYTHONPATH": f"{root / 'inference_server'}{os.pathsep}{root}",
    }
    return EngineProcessSpec(
        environments=(environment,) * processes,
        policy=policy,
        pixels_bytes=pixels_bytes(settings),
        loader="bench.fake_server:load_fake",
        restart_seconds=settings.engine_restart_seconds,
        max_restarts=settings.max_engine_restarts,
        log_level=settings.log_level,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=0, help="engine processes; 0 runs the model in the server's")
    parser.add_argument("--fixed-seconds", type=float, required=True, help="cost of a batch")
    parser.add_argument("--seconds-per-image", type=float, default=0.0, help="cost of each image in it")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    health = Health()
    try:
        settings = load_settings()
        engine = fake_engine(settings, health, options.processes, options.fixed_seconds, options.seconds_per_image)
        code = asyncio.run(_run(settings, engine, health))
    except StartupError as error:
        report_startup_failure(error, Path(os.devnull))
        return 1
    return code


async def _run(settings: Settings, engine: Engine, health: Health) -> int:
    return await ServerProcess(settings, engine, health).run()


if __name__ == "__main__":
    sys.exit(main())
