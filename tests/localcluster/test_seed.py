from __future__ import annotations

from typing import Any

import pytest

from localcluster.node.podstatus import Terminated, Waiting
from localcluster.node.seed import seed_records

NOW = "2026-01-01T00:00:00Z"


def seeded(policy: str, state: dict[str, Any], phase: str = "Running") -> Any:
    status = {"name": "c", "restartCount": 2, "containerID": "process://1", "state": state, "lastState": {}}
    pod = {
        "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase, "containerStatuses": [status]},
    }
    _, [(_, record)] = seed_records(pod, NOW)
    return record


def test_new_pod_has_never_run() -> None:
    pod = {"spec": {"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "i", "image": "i"}]}}
    [(_, init)], [(_, main)] = seed_records(pod, NOW)
    assert init.state == Waiting("ContainerCreating")
    assert main.state == Waiting("PodInitializing")
    assert (main.restarts, main.last) == (0, None)


@pytest.mark.parametrize("policy", ["Always", "OnFailure"])
def test_lost_container_starts_again_with_one_restart_more(policy: str) -> None:
    record = seeded(policy, {"running": {"startedAt": NOW}})
    assert isinstance(record.state, Waiting)
    assert record.restarts == 3
    assert (record.last.exit_code, record.last.reason) == (255, "Unknown")


def test_lost_container_that_never_restarts_has_failed() -> None:
    record = seeded("Never", {"running": {"startedAt": NOW}})
    assert isinstance(record.state, Terminated)
    assert (record.state.exit_code, record.restarts) == (255, 2)


@pytest.mark.parametrize(("policy", "kept"), [("Never", True), ("OnFailure", True), ("Always", False)])
def test_completed_container_stays_completed_unless_it_always_restarts(policy: str, *, kept: bool) -> None:
    record = seeded(policy, {"terminated": {"exitCode": 0, "reason": "Completed"}})
    assert isinstance(record.state, Terminated) is kept


def test_container_in_back_off_starts_again() -> None:
    record = seeded("Always", {"waiting": {"reason": "CrashLoopBackOff"}})
    assert isinstance(record.state, Waiting)
    assert record.restarts == 3


def test_finished_pod_keeps_its_end() -> None:
    record = seeded("OnFailure", {"terminated": {"exitCode": 1, "reason": "Error"}}, phase="Failed")
    assert record.state.exit_code == 1
