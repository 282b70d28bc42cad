"""Processes by identity: a pid counts only together with its start time, so a reused pid is never touched."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localcluster.settings import CLUSTER_MARKER
from localcluster.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that started at `start_time` (clock ticks since boot, field 22 of /proc/PID/stat)."""

    pid: int
    start_time: int


@dataclass(frozen=True)
class ProcessStat:
    """The part of /proc/PID/stat that is needed."""

    state: str
    session: int
    start_time: int


def parse_stat(text: str) -> ProcessStat:
    """Parse /proc/PID/stat; the command in parentheses may hold spaces and parentheses (proc(5))."""
    rest = text[text.rindex(")") + 2 :].split()
    return ProcessStat(state=rest[0], session=int(rest[3]), start_time=int(rest[19]))


def read_stat(pid: int) -> ProcessStat | None:
    """Return the stat of a process, or None if there is none."""
    try:
        return parse_stat((PROC / str(pid) / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of a running process; None if it is gone or a zombie."""
    stat = read_stat(pid)
    return None if stat is None or stat.state == "Z" else ProcessIdentity(pid, stat.start_time)


def alive(identity: ProcessIdentity) -> bool:
    """Say whether exactly this process still runs."""
    return identify(identity.pid) == identity


def record(folder: Path, name: str, pid: int) -> None:
    """Note a process that leads its own session, so that `down` finds it later."""
    identity = identify(pid)
    if identity is not None:
        write_atomically(folder / f"{name}.json", json.dumps(asdict(identity)))


def forget(folder: Path, name: str) -> None:
    """Remove the note of a process that has ended."""
    (folder / f"{name}.json").unlink(missing_ok=True)


def read_record(path: Path) -> ProcessIdentity | None:
    """Return a noted process, or None if the note is missing or damaged."""
    try:
        return ProcessIdentity(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _environment_has(pid: int, marker: bytes) -> bool:
    try:
        return marker in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return (PROC / str(pid) / "cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


def _in_recorded_session(pid: int, stat: ProcessStat, sessions: dict[int, int], root: Path) -> bool:
    started = sessions.get(stat.session)
    if started is None or stat.start_time < started:
        return False
    leader = read_stat(stat.session)
    # Without its leader a session is recognised by the working folder: programs that overwrite their own
    # environment (nginx, redis) lose the marker but not the folder.
    return _works_in(pid, root) if leader is None else leader.start_time == started


def find(cluster_id: str, root: Path, pids: Path) -> list[ProcessIdentity]:
    """Return every running process of a cluster, other than the caller.

    A process belongs to the cluster if its environment carries the cluster's marker or if it is in a session that
    was recorded in `pids`.
    """
    marker = f"{CLUSTER_MARKER}={cluster_id}".encode()
    noted = [identity for path in pids.glob("*.json") if (identity := read_record(path)) is not None]
    sessions = {identity.pid: identity.start_time for identity in noted}
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        stat = read_stat(pid)
        if stat is None or stat.state == "Z":
            continue
        if _in_recorded_session(pid, stat, sessions, root) or _environment_has(pid, marker):
            found.append(ProcessIdentity(pid, stat.start_time))
    return found


def send(identity: ProcessIdentity, number: signal.Signals) -> None:
    """Signal exactly this process, if it still runs."""
    if alive(identity):
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, number)


def signal_session(pid: int, number: signal.Signals) -> None:
    """Signal the process group that `pid` leads; a group that is gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def wait_gone(identities: Iterable[ProcessIdentity], seconds: float) -> list[ProcessIdentity]:
    """Wait until the processes have ended and return those that have not after `seconds`."""
    deadline = time.monotonic() + seconds
    left = [identity for identity in identities if alive(identity)]
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [identity for identity in left if alive(identity)]
    return left


def sweep(list_processes: Callable[[], list[ProcessIdentity]], grace: float) -> tuple[int, list[ProcessIdentity]]:
    """End every listed process, SIGTERM first, SIGKILL after `grace` seconds.

    Returns:
        How many processes were found, and those that survive even SIGKILL (stuck in the kernel).
    """
    first = list_processes()
    if grace > 0:
        for identity in first:
            send(identity, signal.SIGTERM)
        wait_gone(first, grace)
    left = list_processes()
    # A process may start another one while it is being killed, hence several rounds.
    for _ in range(10):
        if not left:
            break
        for identity in left:
            send(identity, signal.SIGKILL)
        wait_gone(left, 2.0)
        left = list_processes()
    return len(first), left
