"""Command line: `python -m depth_server` serves; `random-weights` writes weights to try it with."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import prometheus_client

from depth_server.demo_weights import copy_demo_weights
from depth_server.engine import DepthModel, ThreadEngine
from depth_server.errors import StartupError
from depth_server.health import Health, HealthState
from depth_server.model.random_weights import write_random_weights
from depth_server.model.variants import ModelFamily, ModelVariant
from depth_server.model.weights_file import verify_weights_file
from depth_server.serving import ServerProcess, report_startup_failure
from depth_server.settings import (
    DEFAULT_TERMINATION_MESSAGE_PATH,
    TERMINATION_MESSAGE_VARIABLE,
    Settings,
    load_settings,
    unknown_variables,
)

logger = logging.getLogger("depth_server")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "random-weights":
        return _random_weights(options.variant, options.out, options.seed)
    if options.command == "demo-weights":
        return _demo_weights(options.out)
    return serve()


def serve() -> int:
    """Serve until told to stop; 0 after a signal, 1 if the server could not start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Its notices of start and stop, under the name `uvicorn.error`, repeat ours.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client
    path = Path(os.environ.get(TERMINATION_MESSAGE_VARIABLE) or DEFAULT_TERMINATION_MESSAGE_PATH)
    try:
        settings = load_settings()
        logging.getLogger().setLevel(settings.log_level)
        for name in unknown_variables(os.environ):
            logger.warning("%s is no setting and is ignored", name)
        health = Health()
        engine = build_engine(settings, health)
        code = asyncio.run(_run(settings, engine, health))
    except StartupError as error:
        report_startup_failure(error, path)
        return 1
    if engine.is_running:
        # A daemon thread inside torch may crash an interpreter that is being taken down under it.
        logging.shutdown()
        os._exit(code)
    return code


def build_engine(settings: Settings, health: Health) -> ThreadEngine:
    """Make the engine that the settings ask for; its crash makes the server unhealthy."""

    def on_crash(reason: str) -> None:
        health.advance(HealthState.FAILED, reason)

    return ThreadEngine(
        partial(load_model, settings),
        max_waiting=settings.max_queued_requests,
        max_consecutive_failures=settings.max_consecutive_failures,
        on_crash=on_crash,
    )


def load_model(settings: Settings) -> DepthModel:
    """Verify the weights and load the model.

    Raises:
        StartupError: See `verify_weights_file` and `load_torch_model`.
    """
    verify_weights_file(settings.weights, settings.weights_sha256, settings.model_family)
    from depth_server.torch_model import load_torch_model  # noqa: PLC0415 takes seconds, while probes are answered

    return load_torch_model(settings)


async def _run(settings: Settings, engine: ThreadEngine, health: Health) -> int:
    return await ServerProcess(settings, engine, health).run()


def _random_weights(variant: ModelVariant, out: Path, seed: int) -> int:
    try:
        write_random_weights(variant, out, seed)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{out}: random weights of {variant}, seed {seed}; depth from them means nothing\n")
    return 0


def _demo_weights(out: Path) -> int:
    try:
        copy_demo_weights(out)
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(
        f"{out}: demo weights of {ModelFamily.DEPTH_ANYTHING_V2} {ModelVariant.VITT14}, not for real work\n"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m depth_server",
        description="Serve depth estimation. Settings are environment variables, DEPTH_SERVER_*.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", help="serve (the default)")
    weights = commands.add_parser("random-weights", help="write deterministic random weights in the official layout")
    weights.add_argument("--variant", type=ModelVariant, choices=list(ModelVariant), required=True)
    weights.add_argument("--out", type=Path, required=True, help="a file ending with .pth or .safetensors")
    weights.add_argument("--seed", type=int, default=0, help="not negative; the same seed gives the same file")
    demo = commands.add_parser("demo-weights", help="copy the small weights that come with the package")
    demo.add_argument("--out", type=Path, required=True, help="a file or a folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
