"""Startup, readiness and liveness probes: a pure counter per probe, and the requests that feed it.

Semantics: https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import aiohttp

from localcluster.network import reach_port
from localcluster.settings import JsonObject

if TYPE_CHECKING:
    from pathlib import Path

ProbeKind = Literal["Startup", "Readiness", "Liveness"]

MAX_OUTPUT_BYTES = 10240
"""Bytes of an answer or of a command's output that are read for a failure message, as in the kubelet."""


@dataclass(frozen=True)
class ProbeTiming:
    """When a probe runs and how many results count, with the API's defaults."""

    initial_delay: float = 0
    period: float = 10
    timeout: float = 1
    success_threshold: int = 1
    failure_threshold: int = 3

    @classmethod
    def of(cls, probe: JsonObject) -> ProbeTiming:
        """Read the timing of a probe; the API server has set its defaults."""
        return cls(
            initial_delay=probe.get("initialDelaySeconds", 0),
            period=probe.get("periodSeconds", 10),
            timeout=probe.get("timeoutSeconds", 1),
            success_threshold=probe.get("successThreshold", 1),
            failure_threshold=probe.get("failureThreshold", 3),
        )


class ProbeCounter:
    """Turns single results into a verdict: None until a threshold is reached, then True or False."""

    def __init__(self, timing: ProbeTiming) -> None:
        self._timing = timing
        self._last: bool | None = None
        self._run = 0
        self.verdict: bool | None = None

    def observe(self, *, success: bool) -> bool | None:
        """Count one result and return the verdict; a result of the other kind starts the count again."""
        self._run = self._run + 1 if success == self._last else 1
        self._last = success
        needed = self._timing.success_threshold if success else self._timing.failure_threshold
        if self._run >= needed:
            self.verdict = success
        return self.verdict


@dataclass(frozen=True)
class ProbeTarget:
    """What probes of one container need to know.

    Attributes:
        host: The pod's loopback address.
        ports: Named container ports.
        environment: The container's environment, for `exec`.
        folder: Working folder, for `exec`.
        rewrite: Rewrites the command of `exec` as the container's own command is.
    """

    host: str
    ports: Mapping[str, int]
    environment: Mapping[str, str]
    folder: Path
    rewrite: Callable[[str], str]


def port_number(port: int | str, ports: Mapping[str, int]) -> int:
    """Return the number of a port given by number or by name.

    Raises:
        ValueError: If no container port has that name.
    """
    if isinstance(port, int):
        return port
    if port.isdigit():
        return int(port)
    if port not in ports:
        msg = f"no container port is named {port!r}"
        raise ValueError(msg)
    return ports[port]


async def run_command(command: Sequence[str], target: ProbeTarget, timeout: float) -> tuple[bool, str]:  # noqa: ASYNC109 - the bound of the probe's specification
    """Run an `exec` action in the container's surroundings; return success and the end of its output."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(target.rewrite(part) for part in command),
            cwd=target.folder,
            env=dict(target.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return False, str(error)
    try:
        async with asyncio.timeout(timeout):
            output, _ = await process.communicate()
    except TimeoutError:
        return False, f'command "{" ".join(command)}" timed out'
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode == 0, output[-MAX_OUTPUT_BYTES:].decode(errors="replace").strip()


async def http_get(action: JsonObject, target: ProbeTarget, timeout: float) -> tuple[bool, str]:  # noqa: ASYNC109 - handed to aiohttp
    """Run an `httpGet` action: a status from 200 to 399 is success; certificates are not verified."""
    port = reach_port(port_number(action["port"], target.ports))
    host = action.get("host") or target.host
    scheme = action.get("scheme", "HTTP").lower()
    url = f"{scheme}://{host}:{port}/{action.get('path', '/').lstrip('/')}"
    headers = {item["name"]: item["value"] for item in action.get("httpHeaders", [])}
    headers.setdefault("User-Agent", "kube-probe/1.36")
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(url, headers=headers, ssl=context, allow_redirects=False) as response,
        ):
            body = (await response.content.read(MAX_OUTPUT_BYTES)).decode(errors="replace").strip()
            if 200 <= response.status < 400:
                return True, ""
            return False, f"HTTP probe failed with statuscode: {response.status}: {body[:200]}"
    except TimeoutError:
        return False, f'Get "{url}": no answer within {timeout:g} s'
    except aiohttp.ClientConnectorError as error:
        return False, f'Get "{url}": {os.strerror(error.errno) if error.errno else error}'
    except aiohttp.ClientError as error:
        return False, f'Get "{url}": {error}'


async def tcp_connect(action: JsonObject, target: ProbeTarget, timeout: float) -> tuple[bool, str]:  # noqa: ASYNC109 - the bound of the probe's specification
    """Run a `tcpSocket` action: an accepted connection is success."""
    port = reach_port(port_number(action["port"], target.ports))
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(action.get("host") or target.host, port)
    except TimeoutError:
        return False, f"dial tcp {target.host}:{port}: no answer within {timeout:g} s"
    except OSError as error:
        return False, f"dial tcp {target.host}:{port}: {error.strerror or error}"
    writer.close()
    return True, ""


async def perform(action: JsonObject, target: ProbeTarget, timeout: float) -> tuple[bool, str]:  # noqa: ASYNC109 - the bound of the probe's specification
    """Run the action of a probe or of a lifecycle hook; return success and what went wrong."""
    try:
        if "httpGet" in action:
            return await http_get(action["httpGet"], target, timeout)
        if "tcpSocket" in action:
            return await tcp_connect(action["tcpSocket"], target, timeout)
        if "exec" in action:
            return await run_command(action["exec"].get("command", []), target, timeout)
    except ValueError as error:
        return False, str(error)
    return False, "the process node offers httpGet, tcpSocket and exec actions only"


@dataclass(frozen=True)
class ProbeEvents:
    """What follows from probes.

    Attributes:
        failed: Called with the probe's kind and a message at every failure.
        started: Called once when the startup probe succeeds, or at once without one.
        ready: Called with every change of readiness.
        unhealthy: Called when the startup or liveness probe has failed for good.
    """

    failed: Callable[[ProbeKind, str], None]
    started: Callable[[], None]
    ready: Callable[[bool], None]
    unhealthy: Callable[[ProbeKind], None]


Perform = Callable[[JsonObject, ProbeTarget, float], Awaitable[tuple[bool, str]]]
Sleep = Callable[[float], Awaitable[None]]


class Prober:
    """Runs the probes of one container instance until cancelled."""

    def __init__(
        self,
        container: JsonObject,
        target: ProbeTarget,
        events: ProbeEvents,
        *,
        act: Perform = perform,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._container = container
        self._target = target
        self._events = events
        self._act = act
        self._sleep = sleep

    async def run(self) -> None:
        """Run the startup probe, then readiness and liveness side by side."""
        startup = self._container.get("startupProbe")
        if startup and not await self._until_started(startup):
            return
        self._events.started()
        async with asyncio.TaskGroup() as group:
            readiness, liveness = self._container.get("readinessProbe"), self._container.get("livenessProbe")
            if readiness:
                group.create_task(self._follow_readiness(readiness))
            else:
                self._events.ready(True)  # noqa: FBT003 - a value, not a switch
            if liveness:
                group.create_task(self._follow_liveness(liveness))

    async def _observe(self, kind: ProbeKind, probe: JsonObject, counter: ProbeCounter, timing: ProbeTiming) -> None:
        success, message = await self._act(probe, self._target, timing.timeout)
        if not success:
            self._events.failed(kind, message)
        counter.observe(success=success)

    async def _until_started(self, probe: JsonObject) -> bool:
        timing = ProbeTiming.of(probe)
        counter = ProbeCounter(timing)
        await self._sleep(timing.initial_delay)
        while True:
            await self._observe("Startup", probe, counter, timing)
            if counter.verdict is not None:
                if not counter.verdict:
                    self._events.unhealthy("Startup")
                return counter.verdict
            await self._sleep(timing.period)

    async def _follow_readiness(self, probe: JsonObject) -> None:
        timing = ProbeTiming.of(probe)
        counter = ProbeCounter(timing)
        await self._sleep(timing.initial_delay)
        known: bool | None = None
        while True:
            await self._observe("Readiness", probe, counter, timing)
            if counter.verdict is not None and counter.verdict != known:
                known = counter.verdict
                self._events.ready(known)
            await self._sleep(timing.period)

    async def _follow_liveness(self, probe: JsonObject) -> None:
        timing = ProbeTiming.of(probe)
        counter = ProbeCounter(timing)
        await self._sleep(timing.initial_delay)
        while True:
            await self._observe("Liveness", probe, counter, timing)
            if counter.verdict is False:
                self._events.unhealthy("Liveness")
                return
            await self._sleep(timing.period)
