"""Why a workload is not ready, read from its pods and its Deployment. Pure.

A person who runs ``kubectl get dsvc`` should not have to go on to pods and events: the most telling finding is
repeated, with what to do about it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from depth_operator.api.conditions import Reason
from depth_operator.api.naming import CONTAINER_NAME
from depth_operator.observe import Pod, status_conditions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from depth_operator.manifests import Manifest

SERVER_REASONS: Final[dict[str, str]] = {
    "WeightsNotFound": "put the file there or correct spec.model.source",
    "WeightsInvalid": "replace the file by an official checkpoint in .pth or .safetensors",
    "DigestMismatch": "correct spec.model.sha256 or replace the file",
    "ModelMismatch": "correct spec.model.family and spec.model.variant, or replace the file",
    "DownloadFailed": "correct spec.model.source, or give the pod access to where the weights are",
    "LicenseNotAccepted": "take a model under Apache-2.0, or a runtime image whose environment accepts the licence",
    "OutputMismatch": "set spec.runtime.precision to FP32, or replace the file of weights",
    "BackendUnavailable": "take a runtime image that has the backend installed",
    "DeviceUnavailable": "set spec.gpu.count, or spec.runtime.device to CPU with spec.gpu.count 0",
    "InvalidSettings": "correct spec.runtime",
    "InternalError": "read the pod's log and report it",
    "OutOfMemory": "lower spec.runtime.inputSize, take a smaller spec.model.variant or a larger GPU",
}
"""Reasons of the server's termination message (docs/reference/contract.md section 1) with their remedies."""

MAX_QUOTED_LENGTH: Final = 512
"""Characters that are repeated from a message of somebody else."""

_TERMINATION_MESSAGE: Final = re.compile(r"^(?P<reason>[A-Za-z]+): (?P<message>\S.*)", re.DOTALL)
_MISSING_CLAIM: Final = re.compile(r'persistentvolumeclaim "(?P<claim>[^"]+)" not found')
_IMAGE_REASONS: Final = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_OUT_OF_MEMORY_REMEDY: Final = "raise spec.resources.limits.memory"

_PRECEDENCE: Final = (
    *SERVER_REASONS,
    Reason.CRASH_LOOP,
    Reason.IMAGE_PULL_FAILED,
    Reason.CONTAINER_CONFIG_INVALID,
    Reason.VOLUME_MISSING,
    Reason.EVICTED,
    Reason.WAITING_FOR_GPU,
    Reason.VOLUME_PENDING,
    Reason.UNSCHEDULABLE,
    Reason.WARMING_UP,
    Reason.CREATING,
)
"""Which finding is told when pods differ: first what only a person can mend, last what mends itself."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Why something is not ready: one word and a sentence with the remedy."""

    reason: str
    message: str


def diagnose(deployment: Manifest | None, pods: Iterable[Pod], *, gpu_resource: str) -> Finding | None:
    """The most telling reason why not all of ``pods`` are ready; None if nothing is known.

    Args:
        deployment: The live Deployment, for pods that could not be created at all.
        pods: Pods of the present configuration, ready ones included; terminating ones left out.
        gpu_resource: Name of the extended resource, for example ``nvidia.com/gpu``.
    """
    findings = [finding for pod in pods if not pod.ready and (finding := diagnose_pod(pod.raw, gpu_resource))]
    creation = _diagnose_creation(deployment)
    if creation is not None and not any(_rank(finding) < _rank_of(Reason.WARMING_UP) for finding in findings):
        return creation
    return min(findings, key=lambda finding: (_rank(finding), finding.message), default=None)


def _rank_of(reason: str) -> int:
    return _PRECEDENCE.index(reason) if reason in _PRECEDENCE else 0


def _rank(finding: Finding) -> int:
    return _rank_of(finding.reason)


def _diagnose_creation(deployment: Manifest | None) -> Finding | None:
    failure = status_conditions(deployment).get("ReplicaFailure")
    if failure is None or failure["status"] != "True":
        return None
    message = quote(failure.get("message", ""))
    if "exceeded quota" in message:
        remedy = "raise the ResourceQuota of the namespace or lower spec.resources or the number of replicas"
        return Finding(Reason.QUOTA_EXCEEDED, f"a pod cannot be created: {message}; {remedy}")
    return Finding(Reason.POD_CREATION_FAILED, f"a pod cannot be created: {message}")


def diagnose_pod(pod: Manifest, gpu_resource: str) -> Finding | None:
    """Why one pod that is not ready is not ready; None if it shows nothing."""
    name = pod["metadata"]["name"]
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return Finding(Reason.EVICTED, f"pod {name} failed: {quote(status.get('message') or status.get('reason', ''))}")
    scheduled = status_conditions(pod).get("PodScheduled")
    if scheduled is not None and scheduled["status"] == "False":
        return _diagnose_scheduling(name, scheduled, gpu_resource)
    containers = status.get("containerStatuses") or []
    container = next((item for item in containers if item["name"] == CONTAINER_NAME), None)
    if container is None:
        return Finding(Reason.CREATING, f"pod {name} is being created")
    return _diagnose_container(name, container)


def _diagnose_scheduling(name: str, condition: dict[str, Any], gpu_resource: str) -> Finding:
    message = quote(condition.get("message") or "waiting for the scheduler")
    missing = _MISSING_CLAIM.search(message)
    if missing is not None:
        claim = missing["claim"]
        remedy = (
            f"create the PersistentVolumeClaim {claim} or correct spec.model.source.persistentVolumeClaim.claimName"
        )
        return Finding(Reason.VOLUME_MISSING, f"PersistentVolumeClaim {claim} not found; {remedy}")
    if "PersistentVolumeClaim" in message:
        return Finding(Reason.VOLUME_PENDING, f"pod {name} waits for its volume: {message}")
    if f"Insufficient {gpu_resource}" in message:
        remedy = f"add nodes with {gpu_resource}, free some, or lower spec.gpu.count or the number of replicas"
        return Finding(Reason.WAITING_FOR_GPU, f"pod {name} waits for a GPU: {message}; {remedy}")
    return Finding(Reason.UNSCHEDULABLE, f"pod {name} cannot be scheduled: {message}")


def _diagnose_container(name: str, container: dict[str, Any]) -> Finding:
    state: dict[str, Any] = container.get("state") or {}
    waiting: dict[str, Any] = state.get("waiting") or {}
    if waiting.get("reason") in _IMAGE_REASONS:
        detail = quote(waiting.get("message") or waiting["reason"])
        remedy = "check spec.runtime.image and spec.runtime.imagePullSecrets"
        return Finding(Reason.IMAGE_PULL_FAILED, f"image {container.get('image', '')}: {detail}; {remedy}")
    if waiting.get("reason") in _CONFIG_REASONS:
        detail = quote(waiting.get("message") or waiting["reason"])
        return Finding(Reason.CONTAINER_CONFIG_INVALID, f"pod {name}: {detail}")
    terminated = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if terminated is not None and (terminated.get("exitCode") or terminated.get("reason") == "OOMKilled"):
        return _diagnose_termination(name, terminated)
    if "running" in state:
        return Finding(
            Reason.WARMING_UP, f"pod {name} runs and is not ready yet: it loads and verifies the weights and warms up"
        )
    return Finding(Reason.CREATING, f"pod {name}: {quote(waiting.get('reason') or 'its container is being created')}")


def _diagnose_termination(name: str, terminated: dict[str, Any]) -> Finding:
    """Why the server ended. A restart that runs meanwhile does not hide it: the finding must not flap."""
    if terminated.get("reason") == "OOMKilled":
        return Finding(Reason.OUT_OF_MEMORY, f"pod {name} was killed for memory; {_OUT_OF_MEMORY_REMEDY}")
    text = (terminated.get("message") or "").strip()
    match = _TERMINATION_MESSAGE.match(text)
    if match is not None and match["reason"] in SERVER_REASONS:
        return Finding(match["reason"], f"{quote(match['message'])}; {SERVER_REASONS[match['reason']]}")
    detail = f": {quote(text)}" if text else ""
    exit_code = terminated.get("exitCode")
    return Finding(
        Reason.CRASH_LOOP, f"pod {name} ended with exit code {exit_code}{detail}; see kubectl logs --previous {name}"
    )


def quote(message: str) -> str:
    """Somebody else's message on one line, cut to a bounded length."""
    line = " ".join(message.split()).rstrip(".")
    return line if len(line) <= MAX_QUOTED_LENGTH else line[: MAX_QUOTED_LENGTH - 1] + "…"
