"""Condition types, reasons, and the rule by which a condition changes.

The shape is ``metav1.Condition``. Types and reasons are a stable API; messages are for people and may change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_MESSAGE_LENGTH = 4096
"""Characters of a condition's message; longer ones, such as a quota error of many lines, are cut."""


class ConditionType(StrEnum):
    """What a condition is about."""

    READY = "Ready"
    """The declared replicas run the declared configuration and answer."""
    WORKLOAD_AVAILABLE = "WorkloadAvailable"
    """At least one replica answers, of whatever configuration."""
    PROGRESSING = "Progressing"
    """The workload is on its way to the declared configuration, and not stuck."""
    METRICS_AVAILABLE = "MetricsAvailable"
    """The metrics behind the scaling decision can be trusted. Only with autoscaling."""
    SCALING_ACTIVE = "ScalingActive"
    """The HorizontalPodAutoscaler acts on the decision. Only with autoscaling."""
    SCALING_LIMITED = "ScalingLimited"
    """Something keeps the decision from following the load. Only with autoscaling."""


class Reason(StrEnum):
    """Reasons of the operator's own. Those that a server writes into its termination message come beside them."""

    AVAILABLE = "Available"
    INVALID_SPEC = "InvalidSpec"
    CHILD_CONFLICT = "ChildConflict"
    """An object of a child's name exists and belongs to somebody else."""
    CHILD_REFUSED = "ChildRefused"
    """The API server refused a child: no permission, an admission policy, an invalid combination."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_CREATION_FAILED = "PodCreationFailed"
    WAITING_FOR_GPU = "WaitingForGPU"
    UNSCHEDULABLE = "Unschedulable"
    VOLUME_MISSING = "VolumeMissing"
    VOLUME_PENDING = "VolumePending"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG_INVALID = "ContainerConfigInvalid"
    OUT_OF_MEMORY = "OutOfMemory"
    CRASH_LOOP = "CrashLoop"
    EVICTED = "Evicted"
    CREATING = "Creating"
    """Pods are being created, scheduled or given their volumes; nothing is wrong yet."""
    WARMING_UP = "WarmingUp"
    """A server runs and is not ready yet: it loads and verifies weights and warms up."""
    AWAITING_REPLICAS = "AwaitingReplicas"
    """Every pod has the present configuration; too few of them are ready."""
    ROLLING_OUT = "RollingOut"
    ROLLOUT_STALLED = "RolloutStalled"
    ROLLED_OUT = "RolledOut"
    SCALED_TO_ZERO = "ScaledToZero"
    NO_REPLICA_READY = "NoReplicaReady"
    METRICS_FRESH = "MetricsFresh"
    METRICS_PARTIAL = "MetricsPartial"
    METRICS_STALE = "MetricsStale"
    METRICS_MISSING = "MetricsMissing"
    PROMETHEUS_ERROR = "PrometheusError"
    AWAITING_AUTOSCALER = "AwaitingAutoscaler"
    NOT_LIMITED = "NotLimited"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition without its time, which only `set_condition` knows.

    Attributes:
        type: See `ConditionType`.
        status: ``True``, ``False`` or ``Unknown``.
        reason: One word of CamelCase.
        message: A sentence, with the remedy where a person has to act.
    """

    type: ConditionType
    status: str
    reason: str
    message: str


def set_condition(
    conditions: Sequence[dict[str, Any]], condition: Condition, *, generation: int, now: str
) -> list[dict[str, Any]]:
    """Return ``conditions`` with ``condition`` set, sorted by type; the input stays as it is.

    ``lastTransitionTime`` moves only when ``status`` changes, so that an unchanged state gives an unchanged object.

    Args:
        conditions: ``status.conditions`` as they are.
        condition: What holds now.
        generation: The ``metadata.generation`` that it speaks about.
        now: RFC 3339 time with whole seconds.
    """
    previous = next((item for item in conditions if item.get("type") == condition.type), None)
    unchanged = previous is not None and previous.get("status") == condition.status
    entry = {
        "type": str(condition.type),
        "status": condition.status,
        "reason": condition.reason,
        "message": _cut(condition.message),
        "observedGeneration": generation,
        "lastTransitionTime": previous["lastTransitionTime"] if previous is not None and unchanged else now,
    }
    others = [item for item in conditions if item.get("type") != condition.type]
    return sorted([*others, entry], key=lambda item: str(item["type"]))


def find_condition(conditions: Sequence[dict[str, Any]], condition_type: str) -> dict[str, Any] | None:
    """The condition of the given type, None if there is none."""
    return next((item for item in conditions if item.get("type") == condition_type), None)


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_LENGTH else message[: MAX_MESSAGE_LENGTH - 1] + "…"
