"""What was observed in the cluster, as types that the decisions read. Pure: parsing only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from depth_operator.api.naming import TEMPLATE_HASH_ANNOTATION
from depth_operator.manifests import Manifest, is_terminating


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the service.

    Attributes:
        name: ``metadata.name``.
        template_hash: Hash of the pod template that the operator rendered for it; empty if it carries none.
        terminating: Its deletion has begun.
        finished: It failed or succeeded and will not come back; its controller replaces it.
        ready: Its condition Ready is True.
        raw: The object.
    """

    name: str
    template_hash: str
    terminating: bool
    finished: bool
    ready: bool
    raw: Manifest

    @classmethod
    def parse(cls, raw: Manifest) -> Pod:
        """Read an object of the API server."""
        status = raw.get("status") or {}
        annotations = raw["metadata"].get("annotations") or {}
        return cls(
            name=raw["metadata"]["name"],
            template_hash=annotations.get(TEMPLATE_HASH_ANNOTATION, ""),
            terminating=is_terminating(raw),
            finished=status.get("phase") in {"Failed", "Succeeded"},
            ready=any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or []),
            raw=raw,
        )

    @property
    def present(self) -> bool:
        """Whether it counts as a replica."""
        return not (self.terminating or self.finished)


class Action(StrEnum):
    """What became of one child in one reconcile."""

    UNCHANGED = "Unchanged"
    APPLIED = "Applied"
    DELETED = "Deleted"
    PENDING = "Pending"
    """Has to wait for a deletion that has begun."""
    CONFLICT = "Conflict"
    """An object of that name belongs to somebody else and was not touched."""
    REFUSED = "Refused"
    """The API server refuses it until a person acts."""
    FAILED = "Failed"
    """The API server was overloaded, broken or out of reach, or somebody else wrote at the same time."""


@dataclass(frozen=True, slots=True)
class ChildOutcome:
    """What became of one child, with the reason if it is not what it should be."""

    kind: str
    action: Action
    message: str = ""
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """The children after they were applied, and the pods.

    Attributes:
        deployment: None if it does not exist or is not ours.
        service: Likewise.
        autoscaler: Likewise.
        pods: Every pod that the selector matches.
    """

    deployment: Manifest | None
    service: Manifest | None
    autoscaler: Manifest | None
    pods: tuple[Pod, ...]

    @property
    def present_pods(self) -> tuple[Pod, ...]:
        """Pods that count as replicas."""
        return tuple(pod for pod in self.pods if pod.present)


def deployment_replicas(deployment: Manifest | None) -> int:
    """``spec.replicas`` of a live Deployment, 0 without one."""
    return int(deployment["spec"].get("replicas", 1)) if deployment is not None else 0


def status_conditions(manifest: Manifest | None) -> dict[str, dict[str, Any]]:
    """``status.conditions`` by type."""
    conditions = ((manifest or {}).get("status") or {}).get("conditions") or []
    return {condition["type"]: condition for condition in conditions}
