"""What the commands do: start a cluster and wait, stop it and make sure, remove its state."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from localcluster import egress, processes
from localcluster.components import tail
from localcluster.errors import LocalClusterError
from localcluster.settings import (
    CLUSTER_MARKER,
    COMPONENT_GRACE_SECONDS,
    POD_STOP_SECONDS,
    REPOSITORY,
    START_TIMEOUT_SECONDS,
    ClusterOptions,
    JsonObject,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from localcluster.state import StateDir

STOP_SECONDS = POD_STOP_SECONDS + 4 * COMPONENT_GRACE_SECONDS
"""Bound on an orderly stop: pods, then three groups of components with their grace, and a margin."""


def supervisor_of(state: StateDir) -> processes.ProcessIdentity | None:
    """Return the running supervisor of a state folder, or None."""
    identity = processes.read_record(state.pids / "supervisor.json")
    return identity if identity is not None and processes.alive(identity) else None


def link_programs(folder: Path, programs: Mapping[str, Path]) -> None:
    """Make `folder` hold one link per program, so that a multi-call binary sees the right name."""
    for name, target in programs.items():
        link = folder / name
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve())


@contextlib.contextmanager
def starting(state: StateDir) -> Iterator[None]:
    """Let one `up` at a time look at a state folder and start its cluster; another one waits."""
    with (state.root / "up.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start(state: StateDir, options: ClusterOptions, programs: Mapping[str, Path]) -> None:
    """Start the supervisor as a daemon; it goes on when this process ends.

    Raises:
        LocalClusterError: If processes of an earlier run are left.
    """
    cluster_id = state.cluster_id()
    if processes.find(cluster_id, state.root, state.pids):
        msg = (
            f"processes of an earlier run in {state.root} are still there; run "
            f"`python -m localcluster --state-dir {state.root} down` first"
        )
        raise LocalClusterError(msg)
    for path in state.pids.glob("*.json"):
        path.unlink()
    state.status_file.unlink(missing_ok=True)
    link_programs(state.bin, programs)
    state.write_options(options)
    environment = {
        **os.environ,
        CLUSTER_MARKER: cluster_id,
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    with state.supervisor_log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "localcluster", "--state-dir", str(state.root), "supervise"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env=environment,
            start_new_session=True,
        )
    processes.record(state.pids, "supervisor", process.pid)
    # The daemon outlives this process on purpose: nobody waits for it here.
    process.returncode = 0


def failure(state: StateDir, status: JsonObject | None) -> str:
    """Say why a cluster did not start, with the end of the supervisor's log if nothing else is known."""
    if status and status["error"]:
        return str(status["error"])
    lines = "\n".join(f"    {line}" for line in tail(state.supervisor_log))
    return f"the supervisor ended\n  last lines of {state.supervisor_log}:\n{lines}"


def wait_ready(state: StateDir, say: Callable[[str], None]) -> JsonObject:
    """Wait until the cluster is ready; every component that comes up is announced.

    Raises:
        LocalClusterError: If it does not come up.
    """
    began = time.monotonic()
    announced: set[str] = set()
    while time.monotonic() - began < 2 * START_TIMEOUT_SECONDS:
        status = state.read_status()
        for component in status["components"] if status else []:
            if component["state"] == "running" and component["name"] not in announced:
                announced.add(component["name"])
                say(f"  {component['name']:<24} {time.monotonic() - began:5.1f} s  {component['address']}")
        if status and status["phase"] == "ready":
            return status
        if (status and status["phase"] == "failed") or supervisor_of(state) is None:
            raise LocalClusterError(failure(state, state.read_status()))
        time.sleep(0.05)
    msg = f"the cluster is not ready after {2 * START_TIMEOUT_SECONDS:.0f} s; see {state.logs}"
    raise LocalClusterError(msg)


def stop(state: StateDir, say: Callable[[str], None]) -> int:
    """Stop everything that belongs to a state folder and make sure that nothing is left.

    Returns:
        How many processes had to be ended that the orderly stop had left.

    Raises:
        LocalClusterError: If a process survives even SIGKILL.
    """
    if not state.holds_cluster:
        return 0
    cluster_id = state.cluster_id()
    supervisor = supervisor_of(state)
    if supervisor is not None:
        processes.send(supervisor, signal.SIGTERM)
        if processes.wait_gone([supervisor], STOP_SECONDS):
            say(f"the supervisor (pid {supervisor.pid}) did not end within {STOP_SECONDS:.0f} s: ending it")
    found, left = processes.sweep(lambda: processes.find(cluster_id, state.root, state.pids), grace=2.0)
    if left:
        pids = ", ".join(str(identity.pid) for identity in left)
        msg = f"processes survive SIGKILL (stuck in the kernel?): {pids}"
        raise LocalClusterError(msg)
    for path in state.pids.glob("*.json"):
        path.unlink()
    egress.remove_socket(state.egress_file)
    return found


def purge(state: StateDir) -> None:
    """Remove a state folder, but only one that holds a cluster.

    Raises:
        LocalClusterError: If the folder is none of ours.
    """
    if not state.root.exists():
        return
    if not state.holds_cluster:
        msg = f"{state.root} holds no cluster (no {state.identity_file.name}): not removed"
        raise LocalClusterError(msg)
    shutil.rmtree(state.root)
