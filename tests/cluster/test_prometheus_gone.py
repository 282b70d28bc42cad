"""Prometheus disappears: the replicas hold and the DepthService says so; it comes back: everything goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from demo import path
from demo.commands import wait_until
from demo.load import Load
from tests.cluster.manifests import apply, depth_service

if TYPE_CHECKING:
    from pathlib import Path

    from demo.commands import Commands

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "blind"


def said(_: str) -> None:
    """Nothing to report while waiting."""


def condition(commands: Commands, name: str, kind: str) -> tuple[str, str]:
    """Status and reason of one condition."""
    service = commands.get("depthservice", name) or {}
    for entry in service.get("status", {}).get("conditions", []):
        if entry["type"] == kind:
            return entry["status"], entry["reason"]
    return "Unknown", ""


def test_without_prometheus_replicas_hold_and_a_condition_says_so(
    installed: Commands, photograph: bytes, tmp_path: Path
) -> None:
    commands = installed
    apply(commands, depth_service(NAME), tmp_path)
    path.wait_ready(commands, NAME, said)
    url = path.endpoint(commands, NAME)
    wait_until(
        lambda: condition(commands, NAME, "MetricsAvailable")[0] == "True",
        what="metrics being available",
        timeout_seconds=90,
        explain=lambda: commands.kubectl("get", "depthservice", NAME, "--output=yaml"),
    )
    with Load(f"{url}/predict", photograph, clients=4, max_seconds=path.SCALE_TIMEOUT_SECONDS):
        path.wait_replicas(commands, NAME, lambda now: now.ready >= 2, what="replicas rising", say=said)
        commands.kubectl("scale", "deployment/prometheus", "--namespace=monitoring", "--replicas=0")
        wait_until(
            lambda: condition(commands, NAME, "MetricsAvailable")[0] == "False",
            what="MetricsAvailable=False",
            timeout_seconds=90,
            explain=lambda: commands.kubectl("get", "depthservice", NAME, "--output=yaml"),
        )
    held = path.replicas(commands, NAME).specified
    assert held >= 2
    # The load is over and nobody can see it: a law that reads missing data as zero would now give the replicas back.
    seen: list[int] = []

    def watched_long_enough() -> bool:
        seen.append(path.replicas(commands, NAME).specified)
        return len(seen) >= 60

    wait_until(watched_long_enough, what="a minute of watching", timeout_seconds=180)
    assert set(seen) == {held}
    assert path.replicas(commands, NAME).desired == held

    commands.kubectl("scale", "deployment/prometheus", "--namespace=monitoring", "--replicas=1")
    path.wait_replicas(commands, NAME, lambda now: now.specified == 1, what="the return to one replica", say=said)
    assert condition(commands, NAME, "MetricsAvailable")[0] == "True"
    commands.kubectl("delete", "depthservice", NAME)
