"""``python -m depth_operator run | metrics-api``."""

from __future__ import annotations

import argparse
import asyncio
import sys

from pydantic import ValidationError

from depth_operator import __version__
from depth_operator.settings import Settings
from depth_operator.telemetry import configure_logging

EXIT_USAGE = 2
"""Exit code for settings that cannot be used, as for a wrong command line."""


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the subcommand, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m depth_operator", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("run", help="reconcile DepthServices")
    commands.add_parser("metrics-api", help="serve the scaling decisions as external.metrics.k8s.io")
    command = parser.parse_args(arguments).command
    try:
        settings = Settings()
    except ValidationError as error:
        for item in error.errors(include_url=False):
            field = "_".join(str(part) for part in item["loc"]).upper()
            name = f"DEPTH_OPERATOR_{field}: " if field else ""
            sys.stderr.write(f"InvalidSettings: {name}{item['msg']}\n")
        return EXIT_USAGE
    configure_logging(settings.log_level)
    return _run(settings) if command == "run" else _metrics_api(settings)


def _run(settings: Settings) -> int:
    from depth_operator.run import run_operator  # noqa: PLC0415 - each subcommand loads only what it needs

    return asyncio.run(run_operator(settings))


def _metrics_api(settings: Settings) -> int:
    from depth_operator.metrics_api.server import main as serve  # noqa: PLC0415 - loads only what it needs

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
