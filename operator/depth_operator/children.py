"""Writing one child: whether it may be touched, whether it has to be, and what became of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from depth_operator.api.naming import APPLIED_HASH_ANNOTATION, FIELD_MANAGER, Key
from depth_operator.errors import ApiError, ConflictError, RefusedError, UnavailableError
from depth_operator.manifests import (
    Manifest,
    describe_controller,
    is_applied,
    is_controlled_by,
    is_terminating,
)
from depth_operator.observe import Action, ChildOutcome
from depth_operator.replicas import ApplyStep

if TYPE_CHECKING:
    from depth_operator.api.v1alpha1 import DepthService
    from depth_operator.ports import Cluster

_SLOW_RETRY_SECONDS: Final = 30.0
"""Pause before a refused request is tried again: a person has to act first, and may do so outside of this object."""

logger = logging.getLogger(__name__)


class ChildWriter:
    """Applies and deletes children of DepthServices, and never touches an object that belongs to somebody else."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._applied: dict[tuple[Key, str], tuple[str, str]] = {}

    def forget(self, key: Key) -> None:
        """Drop what is remembered about the children of a DepthService that is gone."""
        for entry in [entry for entry in self._applied if entry[0] == key]:
            del self._applied[entry]

    async def apply(
        self, manifest: Manifest, live: Manifest | None, service: DepthService, *, full: bool
    ) -> tuple[Manifest | None, ChildOutcome]:
        """Apply a rendered child unless it already is as rendered.

        Args:
            manifest: The child, with its hash.
            live: The object as it is, None if there is none.
            service: Its owner.
            full: Apply also what looks as it should.

        Returns:
            The child as it is now, None if it does not exist or is not ours, and what became of it.
        """
        if live is not None and not full and is_controlled_by(live, service.uid) and self._is_current(live, manifest):
            return live, ChildOutcome(manifest["kind"], Action.UNCHANGED)
        return await self.apply_step(ApplyStep(manifest), live, service)

    async def apply_step(
        self, step: ApplyStep, live: Manifest | None, service: DepthService
    ) -> tuple[Manifest | None, ChildOutcome]:
        """Apply without asking whether it is needed; ownership is still respected."""
        manifest, kind = step.manifest, step.manifest["kind"]
        if live is not None:
            obstacle = _obstacle(live, service)
            if obstacle is not None:
                return (live if obstacle.action is Action.PENDING else None), obstacle
            manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": live["metadata"]["uid"]}}
        try:
            applied = await self._cluster.apply(manifest, step.field_manager)
        except ApiError as error:
            return live, _failure(kind, error)
        if step.field_manager == FIELD_MANAGER:
            digest = manifest["metadata"]["annotations"][APPLIED_HASH_ANNOTATION]
            self._applied[service.key, kind] = (digest, applied["metadata"]["resourceVersion"])
        unchanged = live is not None and live["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"]
        if not unchanged:
            _log(service.key, "applied", kind, field_manager=step.field_manager)
        return applied, ChildOutcome(kind, Action.APPLIED)

    async def prune(self, live: Manifest | None, service: DepthService) -> tuple[Manifest | None, ChildOutcome | None]:
        """Delete a child that is no longer declared, and see whether it is gone.

        Returns:
            The child while it still exists, and what became of it; None for both if there is nothing of ours.
        """
        if live is None or not is_controlled_by(live, service.uid):
            return None, None
        kind = live["kind"]
        try:
            if not is_terminating(live):
                await self._cluster.delete(live)
                _log(service.key, "deleted", kind)
            remaining = await self._cluster.get_child(kind, service.key)
        except ApiError as error:
            return live, _failure(kind, error)
        self._applied.pop((service.key, kind), None)
        if remaining is not None and remaining["metadata"]["uid"] == live["metadata"]["uid"]:
            return remaining, ChildOutcome(kind, Action.PENDING, f"{kind} {service.key.name} is being deleted")
        return None, ChildOutcome(kind, Action.DELETED)

    def _is_current(self, live: Manifest, manifest: Manifest) -> bool:
        """Whether an apply would change nothing, by comparison or because the last one left exactly this object.

        The second case covers fields that an older API server drops, which no comparison ever finds.
        """
        if is_applied(live, manifest):
            return True
        key = Key(live["metadata"]["namespace"], live["metadata"]["name"])
        digest = manifest["metadata"]["annotations"][APPLIED_HASH_ANNOTATION]
        return self._applied.get((key, manifest["kind"])) == (digest, live["metadata"]["resourceVersion"])


def _obstacle(live: Manifest, service: DepthService) -> ChildOutcome | None:
    """Why an existing object must not be applied to, None if it may."""
    kind, name = live["kind"], live["metadata"]["name"]
    if not is_controlled_by(live, service.uid):
        message = (
            f"{kind} {name} already exists and is not controlled by this DepthService but by"
            f" {describe_controller(live)}; delete or rename it, or give the DepthService another name"
        )
        return ChildOutcome(kind, Action.CONFLICT, message)
    if is_terminating(live):
        return ChildOutcome(kind, Action.PENDING, f"{kind} {name} is being deleted and will be created again")
    return None


def _failure(kind: str, error: ApiError) -> ChildOutcome:
    if isinstance(error, RefusedError):
        return ChildOutcome(kind, Action.REFUSED, str(error), _SLOW_RETRY_SECONDS)
    if isinstance(error, ConflictError | UnavailableError):
        return ChildOutcome(kind, Action.FAILED, str(error), error.retry_after_seconds)
    return ChildOutcome(kind, Action.FAILED, str(error))


def _log(key: Key, action: str, kind: str, **fields: str) -> None:
    logger.info("%s %s %s", action, kind, key, extra={"key": str(key), "action": action, "child": kind, **fields})
