"""What the leader has published, as the watch last saw it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

Key = tuple[str, str]
"""Namespace and name of a DepthService."""


def published_replicas(service: Mapping[str, Any]) -> int | None:
    """`status.autoscaling.desiredReplicas` of a DepthService; None if nothing (valid) was published."""
    status = service.get("status")
    autoscaling = status.get("autoscaling") if isinstance(status, Mapping) else None
    desired = autoscaling.get("desiredReplicas") if isinstance(autoscaling, Mapping) else None
    return desired if isinstance(desired, int) and not isinstance(desired, bool) and desired >= 0 else None


def _key(service: Mapping[str, Any]) -> Key:
    metadata = service["metadata"]
    return metadata["namespace"], metadata["name"]


class PublishedReplicas:
    """The desired replicas of every DepthService that has published some. Used from one event loop."""

    def __init__(self) -> None:
        self._replicas: dict[Key, int] = {}
        self._as_of: datetime | None = None

    @property
    def as_of(self) -> datetime | None:
        """When this was last known to be true; None before the first list. Old values keep their old time."""
        return self._as_of

    def replace(self, services: Iterable[Mapping[str, Any]], at: datetime) -> None:
        """Take a complete list of DepthServices."""
        pairs = ((_key(service), published_replicas(service)) for service in services)
        self._replicas = {key: replicas for key, replicas in pairs if replicas is not None}
        self._as_of = at

    def update(self, service: Mapping[str, Any], at: datetime) -> None:
        """Take one DepthService that was added or changed."""
        replicas = published_replicas(service)
        if replicas is None:
            self._replicas.pop(_key(service), None)
        else:
            self._replicas[_key(service)] = replicas
        self._as_of = at

    def remove(self, service: Mapping[str, Any], at: datetime) -> None:
        """Forget one DepthService that was deleted."""
        self._replicas.pop(_key(service), None)
        self._as_of = at

    def confirm(self, at: datetime) -> None:
        """The API server was heard of and had nothing new."""
        self._as_of = at

    def in_namespace(self, namespace: str) -> dict[str, int]:
        """Desired replicas by the name of the DepthService, in the order of the names."""
        return {name: number for (space, name), number in sorted(self._replicas.items()) if space == namespace}
