"""Keeps the published replicas current: list, then watch, for ever. Blocks, so it runs in a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from depth_operator.metrics_api.cluster import ClusterError, DepthServiceSource

if TYPE_CHECKING:
    import threading
    from datetime import datetime

WATCH_SECONDS = 30.0
"""Length of one watch. At its end the values are known to be current, so their timestamp is never older than this while
the API server is there."""

RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Delays before the list is tried again after failures; the last one repeats."""

log = logging.getLogger(__name__)

Service = Mapping[str, Any]


class Sink(Protocol):
    """Where the news goes; `PublishedReplicas` has these methods."""

    def replace(self, services: Iterable[Service], at: datetime) -> None:
        """A complete list."""

    def update(self, service: Service, at: datetime) -> None:
        """One that was added or changed."""

    def remove(self, service: Service, at: datetime) -> None:
        """One that was deleted."""

    def confirm(self, at: datetime) -> None:
        """Nothing new."""


class EventLoopSink:
    """Hands the news to a sink that lives in an event loop.

    Args:
        sink: Called in the loop only.
        post: `loop.call_soon_threadsafe`.
    """

    def __init__(self, sink: Sink, post: Callable[..., object]) -> None:
        self._sink = sink
        self._post = post

    def replace(self, services: Iterable[Service], at: datetime) -> None:
        """See `Sink`."""
        self._post(self._sink.replace, list(services), at)

    def update(self, service: Service, at: datetime) -> None:
        """See `Sink`."""
        self._post(self._sink.update, service, at)

    def remove(self, service: Service, at: datetime) -> None:
        """See `Sink`."""
        self._post(self._sink.remove, service, at)

    def confirm(self, at: datetime) -> None:
        """See `Sink`."""
        self._post(self._sink.confirm, at)


def follow(source: DepthServiceSource, sink: Sink, stop: threading.Event, clock: Callable[[], datetime]) -> None:
    """List and watch until `stop` is set. What was published is kept while the API server cannot be reached.

    Args:
        source: Where the DepthServices come from.
        sink: Where they go.
        stop: Ends the loop, at the latest after the watch that is running.
        clock: The time as an aware datetime.
    """
    failures = 0
    while not stop.is_set():
        try:
            services, version = source.list_services()
            sink.replace(services, clock())
            if failures:
                log.info("DepthServices can be read again")
            failures = 0
            while not stop.is_set():
                version = _watch_once(source, sink, version, stop, clock)
        except ClusterError as error:
            delay = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
            failures += 1
            log.warning("%s; the last known replicas are served, next try in %g s", error, delay)
            stop.wait(delay)


def _watch_once(
    source: DepthServiceSource, sink: Sink, version: str, stop: threading.Event, clock: Callable[[], datetime]
) -> str:
    """One watch to its end; the version to go on from."""
    for kind, service in source.watch_services(version, WATCH_SECONDS):
        if stop.is_set():
            return version
        version = service.get("metadata", {}).get("resourceVersion", version)
        match kind:
            case "ADDED" | "MODIFIED":
                sink.update(service, clock())
            case "DELETED":
                sink.remove(service, clock())
            case _:
                sink.confirm(clock())
    sink.confirm(clock())
    return version
