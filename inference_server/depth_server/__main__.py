"""Command line: `python -m depth_server` serves; `random-weights` writes weights to try it with."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import prometheus_client

from depth_server.demo_weights import copy_demo_weights
from depth_server.engine import Engine
from depth_server.engine_choice import choose_engine
from depth_server.errors import StartupError
from depth_server.gpus import list_gpu_uuids
from depth_server.health import Health
from depth_server.model.random_weights import write_random_weights
from depth_server.model.variants import PATCH_SIZE, ModelFamily, ModelVariant
from depth_server.model_loading import export_onnx, load_model
from depth_server.preprocess import Size
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
        return _random_weights(options.variant, options.out, options.seed, options.family)
    if options.command == "export-onnx":
        return _export_onnx(options.out, options.size, int8=options.int8)
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
        engine = choose_engine(settings, health, os.environ, load_model, list_gpu_uuids)
        code = asyncio.run(_run(settings, engine, health))
    except StartupError as error:
        report_startup_failure(error, path)
        return 1
    if engine.is_running:
        # A daemon thread inside torch may crash an interpreter that is being taken down under it.
        logging.shutdown()
        os._exit(code)
    return code


async def _run(settings: Settings, engine: Engine, health: Health) -> int:
    return await ServerProcess(settings, engine, health).run()


def _random_weights(variant: ModelVariant, out: Path, seed: int, family: ModelFamily) -> int:
    try:
        write_random_weights(variant, out, seed, family)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{out}: random weights of {variant}, seed {seed}; depth from them means nothing\n")
    return 0


def _export_onnx(out: Path, sizes: Sequence[Size], *, int8: bool) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        written = export_onnx(load_settings(), out, sizes, int8=int8)
    except (StartupError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write("".join(f"{path}\n" for path in written))
    return 0


def _size(text: str) -> Size:
    width, _, height = text.partition("x")
    if not (
        width.isdecimal()
        and height.isdecimal()
        and all(int(side) > 0 and int(side) % PATCH_SIZE == 0 for side in (width, height))
    ):
        message = f"{text!r} is no size like 686x518, width before height, both multiples of {PATCH_SIZE}"
        raise argparse.ArgumentTypeError(message)
    return Size(int(height), int(width))


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
    weights.add_argument(
        "--family",
        type=ModelFamily,
        choices=list(ModelFamily),
        default=ModelFamily.DEPTH_ANYTHING_V2,
        help="whose layout to imitate; that of the first two generations is the same",
    )
    weights.add_argument("--out", type=Path, required=True, help="a file ending with .pth or .safetensors")
    weights.add_argument("--seed", type=int, default=0, help="not negative; the same seed gives the same file")
    export = commands.add_parser(
        "export-onnx",
        help="write ONNX graphs of the model that the environment declares, for DEPTH_SERVER_ONNX_FOLDER",
    )
    export.add_argument("--out", type=Path, required=True, help="a folder")
    export.add_argument(
        "--size",
        type=_size,
        action="append",
        default=[],
        metavar="WIDTHxHEIGHT",
        help="an input size, again for each; by default those of the common aspect ratios",
    )
    export.add_argument("--int8", action="store_true", help="quantise linear layers to INT8, for CPUs")
    demo = commands.add_parser("demo-weights", help="copy the small weights that come with the package")
    demo.add_argument("--out", type=Path, required=True, help="a file or a folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
