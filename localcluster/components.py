"""The processes of the control plane: start, watch, stop, and the board that says how they are."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from localcluster import processes
from localcluster.errors import ComponentDiedError, LocalClusterError
from localcluster.settings import COMPONENT_GRACE_SECONDS, LOG_TAIL_LINES, START_TIMEOUT_SECONDS
from localcluster.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)


def tail(path: Path, lines: int = LOG_TAIL_LINES, limit: int = 16384) -> list[str]:
    """Return the last lines of a log file; no more than its last `limit` bytes are read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


@dataclass
class ComponentStatus:
    """What `status` shows of one component.

    Attributes:
        state: `starting`, `running`, `stopping`, `stopped` or `dead`.
        started_at: Unix time of the start, or None.
        detail: Why it is dead.
    """

    name: str
    address: str = ""
    state: str = "starting"
    pid: int | None = None
    started_at: float | None = None
    log: str = ""
    detail: str = ""


class StatusBoard:
    """Keeps `status.json` equal to what is known; `up` and `status` read it."""

    def __init__(self, path: Path, *, number: int | None = None) -> None:
        self._path = path
        self._phase = "starting"
        self._error = ""
        self._number = number
        self._components: dict[str, ComponentStatus] = {}

    def put(self, status: ComponentStatus) -> None:
        """Show a component's status from now on; the same object may change and be put again."""
        self._components[status.name] = status
        self.write()

    def phase(self, phase: str, error: str = "") -> None:
        """Set the cluster's phase: `starting`, `ready`, `stopping`, `stopped` or `failed`."""
        self._phase, self._error = phase, error
        self.write()

    def write(self) -> None:
        """Write the file."""
        content = {
            "phase": self._phase,
            "error": self._error,
            "number": self._number,
            "components": [asdict(status) for status in self._components.values()],
        }
        write_atomically(self._path, json.dumps(content, indent=2))


class Component:
    """One process of the control plane."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        address: str,
        logs: Path,
        pids: Path,
        environment: Mapping[str, str],
        board: StatusBoard,
    ) -> None:
        self.name = name
        self._argv = argv
        self._log = logs / f"{name}.log"
        self._pids = pids
        self._environment = environment
        self._board = board
        self._process: asyncio.subprocess.Process | None = None
        self._monitor: asyncio.Task[None] | None = None
        self._stopping = False
        self.status = ComponentStatus(name, address=address, log=str(self._log))

    async def start(self) -> None:
        """Start the process; the log of the run before is kept as `.log.1`."""
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(self._environment),
                start_new_session=True,
            )
        processes.record(self._pids, self.name, self._process.pid)
        self.status.pid, self.status.started_at, self.status.state = self._process.pid, time.time(), "starting"
        self._board.put(self.status)
        self._monitor = asyncio.create_task(self._watch(self._process), name=f"watch {self.name}")

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        processes.forget(self._pids, self.name)
        if self._stopping:
            self.status.state = "stopped"
        else:
            self.status.state = "dead"
            self.status.detail = _describe_exit(code)
            log.error("%s: %s; its log: %s", self.name, self.status.detail, self._log)
        self._board.put(self.status)

    async def wait_ready(self, ready: Callable[[], Awaitable[bool]], *, needs: Sequence[Component] = ()) -> None:
        """Wait until `ready` says so.

        Args:
            ready: Asked ten times a second.
            needs: Components without which this one cannot become ready; the death of one of them is told as what it
                is, not as a consequence of it.

        Raises:
            ComponentDiedError: If the process, or one of those it needs, ends first.
            LocalClusterError: If it takes longer than START_TIMEOUT_SECONDS.
        """
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not await ready():
            for component in (*needs, self):
                if component.status.state == "dead":
                    raise ComponentDiedError(component.report())
            if time.monotonic() > deadline:
                msg = f"{self.name} is not ready after {START_TIMEOUT_SECONDS:.0f} s\n{self._last_lines()}"
                raise LocalClusterError(msg)
            await asyncio.sleep(0.1)
        self.status.state = "running"
        self._board.put(self.status)

    def report(self) -> str:
        """Say that the component died, with the end of its log."""
        return f"{self.name} died: {self.status.detail}\n{self._last_lines()}"

    def _last_lines(self) -> str:
        lines = "\n".join(f"    {line}" for line in tail(self._log)) or "    (the log is empty)"
        return f"  last lines of {self._log}:\n{lines}"

    async def stop(self) -> None:
        """End the process: SIGTERM, after COMPONENT_GRACE_SECONDS SIGKILL."""
        if self._process is None or self._process.returncode is not None:
            return
        self._stopping = True
        self.status.state = "stopping"
        self._board.put(self.status)
        processes.signal_session(self._process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(COMPONENT_GRACE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            log.warning("%s did not end on SIGTERM within %.0f s; killed", self.name, COMPONENT_GRACE_SECONDS)
            processes.signal_session(self._process.pid, signal.SIGKILL)
            await self._process.wait()
        if self._monitor is not None:
            await self._monitor


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
