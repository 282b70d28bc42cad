"""Why a workload is not ready, told from what Kubernetes shows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_operator.diagnosis import MAX_QUOTED_LENGTH, SERVER_REASONS, diagnose, quote
from depth_operator.observe import Pod
from tests.unit.depth_operator.builders import container_status, pod

GPU = "nvidia.com/gpu"


def unscheduled(message: str) -> dict[str, Any]:
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
    return {"phase": "Pending", "conditions": conditions, "containerStatuses": []}


def terminated(**state: Any) -> list[dict[str, Any]]:
    return container_status(
        state={"waiting": {"reason": "CrashLoopBackOff"}}, lastState={"terminated": {"exitCode": 1, **state}}
    )


@pytest.mark.parametrize(
    ("status", "reason", "hint"),
    [
        (unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), "WaitingForGPU", "spec.gpu.count"),
        (unscheduled("0/3 nodes are available: 3 Insufficient cpu."), "Unschedulable", "Insufficient cpu"),
        (
            unscheduled('0/1 nodes are available: persistentvolumeclaim "weights" not found.'),
            "VolumeMissing",
            "spec.model.source.persistentVolumeClaim.claimName",
        ),
        (unscheduled("pod has unbound immediate PersistentVolumeClaims"), "VolumePending", "unbound"),
        (
            {
                "containerStatuses": container_status(
                    state={"waiting": {"reason": "ImagePullBackOff", "message": "denied"}}
                )
            },
            "ImagePullFailed",
            "spec.runtime.image",
        ),
        (
            {"containerStatuses": container_status(state={"waiting": {"reason": "CreateContainerConfigError"}})},
            "ContainerConfigInvalid",
            "CreateContainerConfigError",
        ),
        (
            {"containerStatuses": terminated(message="WeightsNotFound: /weights/x.pth does not exist\n")},
            "WeightsNotFound",
            "/weights/x.pth does not exist; put the file there",
        ),
        ({"containerStatuses": terminated(message="ValueError: not ours")}, "CrashLoop", "ValueError: not ours"),
        ({"containerStatuses": terminated(exitCode=139)}, "CrashLoop", "139"),
        ({"containerStatuses": terminated(reason="OOMKilled", exitCode=137)}, "OutOfMemory", "spec.resources.limits"),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."},
            "Evicted",
            "low on memory",
        ),
        ({"containerStatuses": container_status(state={"running": {}})}, "WarmingUp", "warms up"),
        (
            {"containerStatuses": container_status(state={"waiting": {"reason": "ContainerCreating"}})},
            "Creating",
            "ContainerCreating",
        ),
        ({"containerStatuses": []}, "Creating", "depth-1"),
    ],
)
def test_what_a_pod_shows(status: dict[str, Any], reason: str, hint: str) -> None:
    finding = diagnose(None, [Pod.parse(pod(**status))], gpu_resource=GPU)
    assert finding is not None
    assert finding.reason == reason
    assert hint in finding.message


@pytest.mark.parametrize("reason", SERVER_REASONS)
def test_every_reason_of_the_server_is_repeated(reason: str) -> None:
    raw = pod(containerStatuses=terminated(message=f"{reason}: because"))
    finding = diagnose(None, [Pod.parse(raw)], gpu_resource=GPU)
    assert finding is not None
    assert finding.reason == reason
    assert finding.message.startswith("because; ")


def test_a_restart_does_not_hide_why_the_server_ended() -> None:
    last = {"terminated": {"exitCode": 1, "message": "ModelMismatch: the file holds ViT-S"}}
    raw = pod(containerStatuses=container_status(state={"running": {}}, lastState=last))
    finding = diagnose(None, [Pod.parse(raw)], gpu_resource=GPU)
    assert finding is not None
    assert finding.reason == "ModelMismatch"


def test_a_server_that_ended_well_and_was_restarted_warms_up() -> None:
    last = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    raw = pod(containerStatuses=container_status(state={"running": {}}, lastState=last))
    finding = diagnose(None, [Pod.parse(raw)], gpu_resource=GPU)
    assert finding is not None
    assert finding.reason == "WarmingUp"


def test_what_only_a_person_can_mend_is_told_first() -> None:
    pods = [
        pod("a"),
        pod("b", **unscheduled("Insufficient nvidia.com/gpu")),
        pod("c", containerStatuses=terminated(message="DigestMismatch: expected 1, is 2")),
    ]
    finding = diagnose(None, [Pod.parse(item) for item in pods], gpu_resource=GPU)
    assert finding is not None
    assert finding.reason == "DigestMismatch"


def test_ready_pods_have_nothing_to_tell() -> None:
    assert diagnose(None, [Pod.parse(pod(ready=True))], gpu_resource=GPU) is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "depth-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1', "QuotaExceeded"),
        ('pods "depth-x" is forbidden: violates PodSecurity "restricted"', "PodCreationFailed"),
    ],
)
def test_pods_that_cannot_be_created(message: str, reason: str) -> None:
    conditions = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}]
    finding = diagnose({"status": {"conditions": conditions}}, [], gpu_resource=GPU)
    assert finding is not None
    assert finding.reason == reason
    assert "forbidden" in finding.message


@given(st.text())
def test_a_quotation_is_one_line_of_bounded_length(text: str) -> None:
    quoted = quote(text)
    assert len(quoted) <= MAX_QUOTED_LENGTH
    assert len(quoted.splitlines()) <= 1
