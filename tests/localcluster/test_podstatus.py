from __future__ import annotations

from typing import Any

import pytest

from localcluster.node.podstatus import ContainerRecord, PodFacts, Running, Terminated, Waiting, build_status, pod_phase

NOW = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T00:01:00Z"


def ended(code: int = 0) -> Terminated:
    return Terminated(code, "Completed" if code == 0 else "Error", "", NOW, NOW, "process://1")


def record(state: Any, **fields: Any) -> ContainerRecord:
    return ContainerRecord(fields.pop("name", "c"), "image", state, **fields)


def facts(main: list[ContainerRecord], init: list[ContainerRecord] | None = None) -> PodFacts:
    return PodFacts(init or [], main, "10.244.0.1", "10.1.0.1", NOW)


RUNS = Running(NOW)
CREATING = Waiting("ContainerCreating")
CRASHED = Waiting("CrashLoopBackOff")


@pytest.mark.parametrize(
    ("policy", "init", "main", "phase"),
    [
        ("Always", [], [record(CREATING)], "Pending"),
        ("Always", [], [record(RUNS), record(CREATING)], "Pending"),
        ("Always", [], [record(RUNS)], "Running"),
        ("Always", [], [record(CRASHED, last=ended(1))], "Running"),
        ("Always", [], [record(ended())], "Running"),
        ("Never", [], [record(ended()), record(RUNS)], "Running"),
        ("Never", [], [record(ended()), record(ended())], "Succeeded"),
        ("Never", [], [record(ended()), record(ended(1))], "Failed"),
        ("OnFailure", [], [record(ended())], "Succeeded"),
        ("OnFailure", [], [record(CRASHED, last=ended(1))], "Running"),
        ("Always", [record(RUNS)], [record(CREATING)], "Pending"),
        ("Always", [record(ended())], [record(RUNS)], "Running"),
        ("Never", [record(ended(1))], [record(CREATING)], "Failed"),
        ("OnFailure", [record(CRASHED, last=ended(1))], [record(CREATING)], "Pending"),
        ("Never", [record(RUNS, sidecar=True)], [record(CREATING)], "Pending"),
        ("Never", [record(RUNS, sidecar=True, started=True)], [record(RUNS)], "Running"),
        ("Never", [record(ended(143), sidecar=True)], [record(ended())], "Succeeded"),
    ],
)
def test_phase(policy: str, init: list[ContainerRecord], main: list[ContainerRecord], phase: str) -> None:
    assert pod_phase(policy, facts(main, init)) == phase


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["type"]: item for item in status["conditions"]}


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {}, "spec": {"restartPolicy": "Always"}, "status": status}


def test_unready_container_is_named() -> None:
    status = build_status(pod(), facts([record(RUNS, name="a", ready=True), record(RUNS, name="b")]), NOW)
    found = conditions(status)
    assert found["Ready"]["status"] == "False"
    assert found["Ready"]["message"] == "containers with unready status: [b]"
    assert found["Initialized"]["status"] == "True"


def test_transition_time_moves_with_the_status_only() -> None:
    first = build_status(pod(), facts([record(RUNS)]), NOW)
    second = build_status(pod(**first), facts([record(RUNS)]), LATER)
    assert conditions(second)["Ready"]["lastTransitionTime"] == NOW
    third = build_status(pod(**second), facts([record(RUNS, ready=True)]), LATER)
    assert conditions(third)["Ready"] == {
        "type": "Ready",
        "status": "True",
        "reason": None,
        "message": None,
        "lastTransitionTime": LATER,
    }


def test_finished_pod_is_unready_because_it_is_complete() -> None:
    finished = {**pod(), "spec": {"restartPolicy": "Never"}}
    found = conditions(build_status(finished, facts([record(ended())]), NOW))
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", "PodCompleted")


def test_open_readiness_gate_holds_ready_but_not_containers_ready() -> None:
    gated = {**pod(), "spec": {"restartPolicy": "Always", "readinessGates": [{"conditionType": "x/gate"}]}}
    found = conditions(build_status(gated, facts([record(RUNS, ready=True)]), NOW))
    assert found["ContainersReady"]["status"] == "True"
    assert found["Ready"]["reason"] == "ReadinessGatesNotReady"
    gated["status"] = {"conditions": [{"type": "x/gate", "status": "True"}]}
    assert conditions(build_status(gated, facts([record(RUNS, ready=True)]), NOW))["Ready"]["status"] == "True"


def test_container_entry_shows_both_states() -> None:
    crashed = record(CRASHED, last=ended(7), restarts=3, container_id="process://2")
    (entry,) = build_status(pod(), facts([crashed]), NOW)["containerStatuses"]
    assert entry["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
    assert entry["lastState"]["terminated"]["exitCode"] == 7
    assert (entry["restartCount"], entry["ready"], entry["started"]) == (3, False, False)
