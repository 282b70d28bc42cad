"""What the reconciler needs from the outside. Adapters implement these; tests replace them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from depth_operator.api.naming import Key
    from depth_operator.manifests import Manifest
    from depth_operator.scaling.types import Signals

MonotonicClock = Callable[[], float]
"""Seconds since an arbitrary start; never goes back."""
WallClock = Callable[[], str]
"""RFC 3339 time with whole seconds, in UTC."""


class Cluster(Protocol):
    """The Kubernetes API. Every method raises `depth_operator.errors.ApiError` and ends within a bounded time."""

    async def list_depth_services(self) -> list[Key]:
        """Every DepthService that this operator serves."""
        ...

    async def get_depth_service(self, key: Key) -> Manifest | None:
        """One DepthService, None if there is none."""
        ...

    async def get_child(self, kind: str, key: Key) -> Manifest | None:
        """One child by its kind, None if there is none."""
        ...

    async def list_pods(self, key: Key) -> list[Manifest]:
        """The pods of one DepthService."""
        ...

    async def apply(self, manifest: Manifest, field_manager: str) -> Manifest:
        """Apply on the server's side, taking over fields that others own, and return the object as it is now.

        Raises:
            ConflictError: ``metadata.uid`` or ``metadata.resourceVersion`` are given and do not match.
        """
        ...

    async def delete(self, manifest: Manifest) -> None:
        """Delete exactly this object, by its uid; it is no error if it is gone.

        Raises:
            ConflictError: another object has its name now.
        """
        ...

    async def apply_status(self, service: Manifest, status: Manifest) -> None:
        """Make ``status`` the whole status of the given DepthService.

        Raises:
            ConflictError: it changed, or was replaced, since it was read.
        """
        ...

    async def create_event(self, service: Manifest, *, event_type: str, reason: str, action: str, message: str) -> None:
        """Record an Event about a DepthService; ``event_type`` is ``Normal`` or ``Warning``."""
        ...


class MetricsSource(Protocol):
    """Where the signals of the scaling decision come from."""

    async def signals(self, key: Key) -> Signals:
        """The signals of one DepthService. Never raises for a source that is out of reach: that is data."""
        ...
