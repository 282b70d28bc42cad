"""One container of a pod: its process, its probes, its restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from localcluster import processes
from localcluster.node.backoff import RestartBackoff
from localcluster.node.env import ConfigError
from localcluster.node.events import timestamp
from localcluster.node.podstatus import ContainerRecord, Running, Terminated, Waiting
from localcluster.node.probes import ProbeEvents, ProbeKind, Prober, ProbeTarget, perform
from localcluster.settings import (
    CONTAINER_LOG_BYTES,
    FALLBACK_LOG_BYTES,
    FALLBACK_LOG_LINES,
    TERMINATION_MESSAGE_BYTES,
    JsonObject,
)

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

CONFIG_RETRY_SECONDS = 2.0
"""Wait before a container whose configuration is incomplete is tried again."""

START_ERROR_EXIT_CODE = 128
"""Exit code in the status of a container whose program could not be started, as under containerd."""


class UnknownImageError(Exception):
    """No program stands in for the image."""


@dataclass(frozen=True)
class Launch:
    """Everything that starts one instance of a container."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    termination_message: Path
    target: ProbeTarget


Emit = Callable[[Literal["Normal", "Warning"], str, str], None]


@dataclass(frozen=True)
class ContainerHooks:
    """What a container needs from its pod.

    Attributes:
        prepare: Makes the launch; raises ConfigError or UnknownImageError.
        changed: Called after every change of the record.
        emit: Records an event about the pod.
        restarts: Says whether an exit code leads to a restart.
        grace: Returns the pod's grace period in seconds.
    """

    prepare: Callable[[], Awaitable[Launch]]
    changed: Callable[[], None]
    emit: Emit
    restarts: Callable[[int], bool]
    grace: Callable[[], float]


def exit_code_of(returncode: int) -> int:
    """Return a process's exit code as a container runtime reports it: 128 + n for signal n."""
    return 128 - returncode if returncode < 0 else returncode


def termination_message(path: Path, log_file: Path, policy: str, exit_code: int) -> str:
    """Return the message of an ended container.

    Args:
        path: The container's termination message file.
        log_file: Its log, the source under FallbackToLogsOnError.
        policy: `terminationMessagePolicy`.
        exit_code: A log's end is used only after an error.
    """
    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
        with path.open("rb") as file:
            message = file.read(TERMINATION_MESSAGE_BYTES).decode(errors="replace")
        if message:
            return message
    if policy != "FallbackToLogsOnError" or exit_code == 0:
        return ""
    with log_file.open("rb") as file:
        file.seek(max(0, log_file.stat().st_size - FALLBACK_LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-FALLBACK_LOG_LINES:])


def trim_log(path: Path, limit: int = CONTAINER_LOG_BYTES) -> None:
    """Cut a log to its later half when it is longer than `limit` bytes; its writer appends and goes on."""
    size = path.stat().st_size
    if size <= limit:
        return
    with path.open("r+b") as file:
        file.seek(size - limit // 2)
        file.readline()
        rest = file.read()
        file.seek(0)
        file.truncate()
        file.write(rest)


class Container:
    """Runs one container with its restarts; the pod's worker owns it."""

    def __init__(
        self,
        spec: JsonObject,
        record: ContainerRecord,
        hooks: ContainerHooks,
        *,
        logs: Path,
        pids: Path,
        backoff: RestartBackoff,
    ) -> None:
        self.spec = spec
        self.record = record
        self._hooks = hooks
        self._logs = logs
        self._pids = pids
        self._backoff = backoff
        self._process: asyncio.subprocess.Process | None = None
        self._launch: Launch | None = None
        self._probes: asyncio.Task[None] | None = None
        self._unhealthy: asyncio.Task[None] | None = None
        self._started_at = ""
        self._began = 0.0
        self.started = asyncio.Event()

    @property
    def log_file(self) -> Path:
        """Log of the current instance."""
        return self._logs / f"{self.record.restarts}.log"

    @property
    def previous_log_file(self) -> Path:
        """Log of the instance before."""
        return self._logs / f"{self.record.restarts - 1}.log"

    def writes_to(self, path: Path) -> bool:
        """Say whether the current instance runs and writes to this log."""
        return isinstance(self.record.state, Running) and path == self.log_file

    async def run(self) -> None:
        """Run until the container has ended and does not start again."""
        seeded = self.record.state
        if isinstance(seeded, Terminated) and not self._hooks.restarts(seeded.exit_code):
            return
        while True:
            if await self._start():
                await self._supervise()
            ended = self.record.state
            code = ended.exit_code if isinstance(ended, Terminated) else 0
            if not self._hooks.restarts(code):
                return
            delay = self._backoff.next_delay(time.monotonic() - self._began)
            if delay:
                await self._wait_in_backoff(delay)
            self._next_instance()

    def _next_instance(self) -> None:
        if isinstance(self.record.state, Terminated):
            self.record.last = self.record.state
        self.record.restarts += 1
        # The log before the previous one has no reader any more.
        (self._logs / f"{self.record.restarts - 2}.log").unlink(missing_ok=True)

    async def _wait_in_backoff(self, delay: float) -> None:
        if isinstance(self.record.state, Terminated):
            self.record.last = self.record.state
        message = f"back-off {delay:g}s restarting failed container={self.record.name}"
        self.record.state = Waiting("CrashLoopBackOff", message)
        self._hooks.changed()
        self._hooks.emit("Warning", "BackOff", f"Back-off restarting failed container {self.record.name}")
        await asyncio.sleep(delay)

    async def _prepare(self) -> Launch:
        attempt = RestartBackoff(base=self._backoff.base, cap=self._backoff.cap)
        while True:
            try:
                return await self._hooks.prepare()
            except ConfigError as error:
                self._wait_because("CreateContainerConfigError", str(error))
                await asyncio.sleep(CONFIG_RETRY_SECONDS)
            except UnknownImageError as error:
                self._wait_because("ErrImagePull", str(error))
                delay = attempt.next_delay(0) or attempt.next_delay(0)
                await asyncio.sleep(min(1.0, delay))
                self._wait_because("ImagePullBackOff", f"Back-off pulling image: {error}")
                await asyncio.sleep(delay)

    def _wait_because(self, reason: str, message: str) -> None:
        state = Waiting(reason, message)
        if self.record.state != state:
            self.record.state = state
            self._hooks.changed()
            self._hooks.emit("Warning", "BackOff" if "BackOff" in reason else "Failed", f"{reason}: {message}")

    async def _start(self) -> bool:
        launch = self._launch = await self._prepare()
        launch.folder.mkdir(parents=True, exist_ok=True)
        launch.termination_message.parent.mkdir(parents=True, exist_ok=True)
        launch.termination_message.write_bytes(b"")
        self._logs.mkdir(parents=True, exist_ok=True)
        self.record.container_id = f"process://{uuid.uuid4().hex}"
        self._hooks.emit("Normal", "Created", f"Container created: {self.record.name}")
        self._began, self._started_at = time.monotonic(), timestamp()
        self._unhealthy = None
        program = shutil.which(launch.argv[0], path=launch.environment["PATH"])
        try:
            # Appending, so that a log that was cut goes on at its end.
            with self.log_file.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *launch.argv,
                    executable=program or launch.argv[0],
                    cwd=launch.folder,
                    env=launch.environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            message = f"failed to start {launch.argv[0]!r}: {error.strerror or error}"
            self._ended(
                Terminated(
                    START_ERROR_EXIT_CODE,
                    "StartError",
                    message,
                    self._started_at,
                    timestamp(),
                    self.record.container_id,
                )
            )
            self._hooks.emit("Warning", "Failed", f"Error: {message}")
            return False
        processes.record(self._pids, self._record_name, self._process.pid)
        self.record.state = Running(self._started_at)
        self.record.ready = self.record.started = False
        self._hooks.changed()
        self._hooks.emit("Normal", "Started", f"Container started: {self.record.name}")
        self._probes = asyncio.create_task(self._prober(launch).run(), name=f"probes of {self.record.name}")
        return True

    @property
    def _record_name(self) -> str:
        return self.record.container_id.removeprefix("process://")

    def _prober(self, launch: Launch) -> Prober:
        events = ProbeEvents(
            failed=lambda kind, message: self._hooks.emit("Warning", "Unhealthy", f"{kind} probe failed: {message}"),
            started=self._on_started,
            ready=self._on_ready,
            unhealthy=self._on_unhealthy,
        )
        return Prober(self.spec, launch.target, events)

    def _on_started(self) -> None:
        self.record.started = True
        self.started.set()
        self._hooks.changed()
        hook = self.spec.get("lifecycle", {}).get("postStart")
        if hook:
            self._hooks.emit("Warning", "FailedPostStartHook", "postStart hooks are not offered by the process node")

    def _on_ready(self, ready: bool) -> None:  # noqa: FBT001 - a callback with one value
        self.record.ready = ready
        self._hooks.changed()

    def _on_unhealthy(self, kind: ProbeKind) -> None:
        probe = self.spec.get(f"{kind.lower()}Probe", {})
        grace = probe.get("terminationGracePeriodSeconds", self._hooks.grace())
        message = f"Container {self.record.name} failed {kind.lower()} probe, will be restarted"
        self._hooks.emit("Normal", "Killing", message)
        self._unhealthy = asyncio.create_task(self._terminate(grace))

    async def _supervise(self) -> None:
        process = self._process
        if process is None:
            return
        code = exit_code_of(await process.wait())
        await self._cancel_probes()
        # What a container's first process leaves behind ends with it, as in a PID namespace.
        processes.signal_session(process.pid, signal.SIGKILL)
        processes.forget(self._pids, self._record_name)
        launch = self._launch
        policy = self.spec.get("terminationMessagePolicy", "File")
        message = "" if launch is None else termination_message(launch.termination_message, self.log_file, policy, code)
        reason = "Completed" if code == 0 else "Error"
        self._ended(Terminated(code, reason, message, self._started_at, timestamp(), self.record.container_id))

    def _ended(self, state: Terminated) -> None:
        self.record.state = state
        self.record.ready = self.record.started = False
        self._hooks.changed()

    async def _cancel_probes(self) -> None:
        if self._probes is not None:
            self._probes.cancel()
            await asyncio.wait([self._probes])
            self._probes = None

    async def _terminate(self, grace: float) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        deadline = time.monotonic() + grace
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if hook and self._launch is not None:
            await self._pre_stop(hook, self._launch, grace)
        # The first process only: it decides what to tell its children, as in a container.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await process.wait()
        except TimeoutError:
            processes.signal_session(process.pid, signal.SIGKILL)
            await process.wait()

    async def _pre_stop(self, hook: JsonObject, launch: Launch, grace: float) -> None:
        if "sleep" in hook:
            await asyncio.sleep(min(grace, hook["sleep"]["seconds"]))
            return
        success, message = await perform(hook, launch.target, grace)
        if not success:
            self._hooks.emit("Warning", "FailedPreStopHook", f"preStop hook failed: {message}")

    async def stop(self, grace: float) -> None:
        """End the running instance for good: preStop, SIGTERM, after `grace` seconds SIGKILL.

        `run` must have been cancelled before, or the container starts again.
        """
        process = self._process
        if process is None or not isinstance(self.record.state, Running):
            return
        self._hooks.emit("Normal", "Killing", f"Stopping container {self.record.name}")
        await self._cancel_probes()
        await self._terminate(grace)
        await self._supervise()

    def trim(self) -> None:
        """Bound the log's size."""
        if self.log_file.exists():
            trim_log(self.log_file)
