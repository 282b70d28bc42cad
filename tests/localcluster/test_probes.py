from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from localcluster.node.probes import (
    ProbeCounter,
    ProbeEvents,
    Prober,
    ProbeTarget,
    ProbeTiming,
    perform,
    port_number,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def target(host: str = "127.0.0.1", **ports: int) -> ProbeTarget:
    return ProbeTarget(host, ports, {"PATH": "/usr/bin:/bin"}, Path("/"), lambda text: text.replace("/mount", "/"))


@given(st.lists(st.booleans(), max_size=50), st.integers(1, 4), st.integers(1, 4))
def test_verdict_changes_only_after_a_whole_run(results: list[bool], successes: int, failures: int) -> None:
    counter = ProbeCounter(ProbeTiming(success_threshold=successes, failure_threshold=failures))
    expected: bool | None = None
    for index, success in enumerate(results):
        needed = successes if success else failures
        window = results[max(0, index + 1 - needed) : index + 1]
        if len(window) == needed and all(item == success for item in window):
            expected = success
        assert counter.observe(success=success) is expected


class Script:
    """Plays results per probe kind on a virtual clock and notes what follows."""

    def __init__(self, **results: Sequence[bool]) -> None:
        self.results = {kind: list(values) for kind, values in results.items()}
        self.notes: list[str] = []
        self.slept: list[float] = []
        self.events = ProbeEvents(
            failed=lambda kind, message: self.notes.append(f"{kind} failed: {message}"),
            started=lambda: self.notes.append("started"),
            ready=lambda ready: self.notes.append(f"ready={ready}"),
            unhealthy=lambda kind: self.notes.append(f"{kind} unhealthy"),
        )

    async def act(self, probe: dict[str, Any], _target: ProbeTarget, _timeout: float) -> tuple[bool, str]:
        left = self.results[probe["kind"]]
        if not left:
            await asyncio.Event().wait()
        return left.pop(0), "no"

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def run(self, **probes: dict[str, Any]) -> list[str]:
        prober = Prober(dict(probes), target(), self.events, act=self.act, sleep=self.sleep)
        task = asyncio.create_task(prober.run())
        for _ in range(200):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        return self.notes


def probe(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "periodSeconds": 3, **fields}


async def test_container_without_probes_is_started_and_ready() -> None:
    assert await Script().run() == ["started", "ready=True"]


async def test_readiness_waits_for_the_startup_probe() -> None:
    script = Script(s=[False, True], r=[True])
    notes = await script.run(
        startupProbe=probe("s", failureThreshold=5, initialDelaySeconds=7), readinessProbe=probe("r")
    )
    assert notes == ["Startup failed: no", "started", "ready=True"]
    assert script.slept[:2] == [7, 3]


async def test_startup_that_fails_for_good_is_unhealthy_and_ends_the_probing() -> None:
    notes = await Script(s=[False, False]).run(startupProbe=probe("s", failureThreshold=2), readinessProbe=probe("r"))
    assert notes == ["Startup failed: no", "Startup failed: no", "Startup unhealthy"]


async def test_readiness_is_told_when_it_changes_only() -> None:
    results = [False, True, True, False, True, False, False, False, True]
    notes = await Script(r=results).run(readinessProbe=probe("r", failureThreshold=3))
    assert [note for note in notes if note.startswith("ready")] == ["ready=True", "ready=False", "ready=True"]


async def test_liveness_needs_its_failures_in_a_row() -> None:
    notes = await Script(v=[False, True, False, False]).run(livenessProbe=probe("v", failureThreshold=2))
    assert notes.count("Liveness unhealthy") == 1
    assert notes[-1] == "Liveness unhealthy"


def test_ports_by_name_and_number() -> None:
    assert port_number(80, {}) == 80
    assert port_number("80", {}) == 80
    assert port_number("http", {"http": 8000}) == 8000
    with pytest.raises(ValueError, match="no container port is named 'grpc'"):
        port_number("grpc", {"http": 8000})


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (302, True), (404, False), (503, False)])
async def test_http_status_decides(status: int, *, healthy: bool) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=f"said {request.headers['X-A']}", headers={"Location": "/elsewhere"})

    application = web.Application()
    application.router.add_get("/healthz", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    action = {"httpGet": {"path": "/healthz", "port": "http", "httpHeaders": [{"name": "X-A", "value": "b"}]}}
    try:
        success, message = await perform(action, target(http=port), 5)
        assert success is healthy
        assert healthy or message == f"HTTP probe failed with statuscode: {status}: said b"
        assert await perform({"tcpSocket": {"port": port}}, target(), 5) == (True, "")
    finally:
        await runner.cleanup()
    success, message = await perform(action, target(http=port), 5)
    assert not success
    assert "Connection refused" in message


async def test_exec_says_what_its_command_said() -> None:
    assert await perform({"exec": {"command": ["sh", "-c", "cd /mount; pwd"]}}, target(), 5) == (True, "/")
    assert await perform({"exec": {"command": ["sh", "-c", "echo bad; exit 1"]}}, target(), 5) == (False, "bad")
    success, message = await perform({"exec": {"command": ["sleep", "60"]}}, target(), 0.05)
    assert not success
    assert "timed out" in message


async def test_actions_that_are_not_offered_are_named() -> None:
    success, message = await perform({"grpc": {"port": 1}}, target(), 1)
    assert not success
    assert "httpGet, tcpSocket and exec actions only" in message
