"""Kubernetes Events about pods; the same event again raises its count."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import uuid
from collections import OrderedDict
from typing import Literal

import aiohttp

from localcluster.client import MERGE_PATCH, ApiClient, ApiError, core
from localcluster.settings import NODE_NAME, JsonObject

log = logging.getLogger(__name__)

MAX_REMEMBERED = 1000
"""Events whose count can still be raised."""

MAX_QUEUED = 1000
"""Events that wait to be written; more are dropped, with a log line."""

Kind = Literal["Normal", "Warning"]


def timestamp() -> str:
    """Return the current time as the API writes it, in whole seconds."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class EventRecorder:
    """Writes events in the order in which they happened, without making their source wait."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._queue: asyncio.Queue[tuple[JsonObject, Kind, str, str]] = asyncio.Queue(MAX_QUEUED)
        self._known: OrderedDict[tuple[str, str, str], tuple[str, int]] = OrderedDict()

    def record(self, pod: JsonObject, kind: Kind, reason: str, message: str) -> None:
        """Queue an event about a pod."""
        try:
            self._queue.put_nowait((pod, kind, reason, message))
        except asyncio.QueueFull:
            log.warning("event dropped, %d are waiting: %s %s", MAX_QUEUED, reason, message)

    async def run(self) -> None:
        """Write events until cancelled."""
        while True:
            pod, kind, reason, message = await self._queue.get()
            try:
                await self._write(pod, kind, reason, message)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                # Not found and forbidden mean that the namespace is going away: the event has lost its place.
                log.debug("event %s not written: %s", reason, error)

    async def _write(self, pod: JsonObject, kind: Kind, reason: str, message: str) -> None:
        metadata = pod["metadata"]
        namespace, now = metadata["namespace"], timestamp()
        key = (metadata["uid"], reason, message)
        known = self._known.get(key)
        if known is not None:
            name, count = known
            await self._client.patch(
                core("events", namespace, name), {"count": count + 1, "lastTimestamp": now}, MERGE_PATCH
            )
        else:
            name, count = f"{metadata['name'][:200]}.{uuid.uuid4().hex[:16]}", 0
            await self._client.create(core("events", namespace), _event(pod, name, kind, reason, message, now))
        self._known[key] = (name, count + 1)
        self._known.move_to_end(key)
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)


def _event(pod: JsonObject, name: str, kind: Kind, reason: str, message: str, now: str) -> JsonObject:
    metadata = pod["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "type": kind,
        "reason": reason,
        "message": message[:1024],
        "source": {"component": "kubelet", "host": NODE_NAME},
        "reportingComponent": "kubelet",
        "reportingInstance": NODE_NAME,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
