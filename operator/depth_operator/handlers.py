"""Everything that kopf is asked to do: watch, and wake up the controller.

There are only event handlers. Handlers of changes, timers and daemons would make kopf set a finalizer, keep annotations
and interpret differences; here an event merely says "look at this key", and what is to be done is read from the
cluster (https://kopf.readthedocs.io/en/stable/reconciliation/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import kopf

from depth_operator.api.naming import FIELD_MANAGER, GROUP, INSTANCE_LABEL, MANAGED_BY_LABEL, PLURAL, VERSION, Key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from depth_operator.controller import Controller

CHILDREN: Final[tuple[tuple[str, str, str], ...]] = (
    ("apps", "v1", "deployments"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("", "v1", "services"),
    ("", "v1", "pods"),
)
"""Group, version and plural of what is watched beside DepthServices."""

WATCH_SERVER_TIMEOUT_SECONDS: Final = 300
"""The API server, which takes whole seconds only, ends a watch after this long. A stalled one is found before that."""
WATCH_CLIENT_TIMEOUT_SECONDS: Final = 330.0
"""The client ends a watch that the server should have ended."""
CONNECT_TIMEOUT_SECONDS: Final = 5.0
REQUEST_TIMEOUT_SECONDS: Final = 10.0
LIST_PAGE_SIZE: Final = 500
"""Objects of one page of the listing that precedes a watch."""


class DeclaredChanges:
    """Tells the events of DepthServices that declare something from those that only repeat their status.

    The operator writes the status itself. Woken by its own write it would reconcile everything twice, and a back-off or
    the API server's Retry-After would last only until the status that reports the trouble has been written. What is
    declared changes the generation (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/
    custom-resource-definitions/#status-subresource); a status that somebody else overwrites is repaired by the next
    reconcile, at the latest by the resync.
    """

    def __init__(self) -> None:
        self._seen: dict[Key, tuple[str, int, bool]] = {}

    def is_new(self, event_type: str | None, manifest: Mapping[str, Any]) -> bool:
        """Whether the event has to be acted upon.

        Args:
            event_type: ``ADDED``, ``MODIFIED`` or ``DELETED``; None for an object of a listing.
            manifest: The DepthService.
        """
        metadata = manifest["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        if event_type == "DELETED":
            self._seen.pop(key, None)
            return True
        declared = metadata["uid"], metadata["generation"], "deletionTimestamp" in metadata
        if self._seen.get(key) == declared:
            return False
        self._seen[key] = declared
        return True


def register(
    registry: kopf.OperatorRegistry, controller: Controller, connect: Callable[[], kopf.ConnectionInfo]
) -> None:
    """Register the handlers.

    Args:
        registry: Of the operator that is to be run.
        controller: Is started and stopped with the operator, and woken by events.
        connect: How to reach the API server; called again when the credentials have expired.
    """

    @kopf.on.login(registry=registry)
    async def login(**_: object) -> kopf.ConnectionInfo:
        return connect()

    @kopf.on.startup(registry=registry)
    async def startup(settings: kopf.OperatorSettings, **_: object) -> None:
        configure(settings)
        controller.start()

    @kopf.on.cleanup(registry=registry)
    async def cleanup(**_: object) -> None:
        await controller.stop()

    changes = DeclaredChanges()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def service_changed(type: str | None, body: Mapping[str, Any], **_: object) -> None:  # noqa: A002 - kopf's name
        if changes.is_new(type, body):
            controller.enqueue(Key(body["metadata"]["namespace"], body["metadata"]["name"]))

    async def child_changed(namespace: str | None, labels: Mapping[str, str], **_: object) -> None:
        controller.enqueue(Key(namespace or "", labels[INSTANCE_LABEL]))

    for group, version, plural in CHILDREN:
        kopf.on.event(
            group,
            version,
            plural,
            id=f"{plural}_changed",
            labels={MANAGED_BY_LABEL: FIELD_MANAGER, INSTANCE_LABEL: kopf.PRESENT},
            registry=registry,
        )(child_changed)


def configure(settings: kopf.OperatorSettings) -> None:
    """Bound what kopf does by itself, and turn off what is not used."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.server_timeout = WATCH_SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = WATCH_CLIENT_TIMEOUT_SECONDS
    settings.watching.connect_timeout = CONNECT_TIMEOUT_SECONDS
    settings.watching.chunk_size = LIST_PAGE_SIZE
    settings.networking.request_timeout = REQUEST_TIMEOUT_SECONDS
    settings.networking.connect_timeout = CONNECT_TIMEOUT_SECONDS
    settings.networking.enforce_retry_after = True
    selector = f"{MANAGED_BY_LABEL}={FIELD_MANAGER}"
    for group, version, plural in CHILDREN:
        settings.watching.label_selectors[group, version, plural] = selector
