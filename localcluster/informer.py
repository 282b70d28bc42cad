"""A cache of one collection, kept up to date by list and watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

import aiohttp

from localcluster.client import ApiClient, ApiError
from localcluster.settings import API_RETRY_SECONDS, JsonObject

log = logging.getLogger(__name__)

Change = Literal["ADDED", "MODIFIED", "DELETED"]
OnChange = Callable[[Change, JsonObject], None]
Key = tuple[str, str]


def key_of(item: JsonObject) -> Key:
    """Return namespace and name; the namespace is empty for cluster-scoped objects."""
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Informer:
    """Lists a collection, watches it, and calls `on_change` for every difference.

    After an interruption the collection is listed again and the differences are reported, so no change is missed;
    several changes of one object may come as one.
    """

    def __init__(self, client: ApiClient, path: str, on_change: OnChange, params: dict[str, str] | None = None) -> None:
        self._client = client
        self._path = path
        self._on_change = on_change
        self._params = params or {}
        self.items: dict[Key, JsonObject] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """Follow the collection until cancelled."""
        while True:
            try:
                version = await self._list()
                self.synced.set()
                await self._follow(version)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                log.info("list and watch of %s: %s; trying again", self._path, str(error) or type(error).__name__)
                await asyncio.sleep(API_RETRY_SECONDS)

    async def _list(self) -> str:
        answer = await self._client.get(self._path, self._params)
        # Items of a list carry neither apiVersion nor kind.
        fresh = {key_of(item): item for item in answer["items"]}
        for key in [key for key in self.items if key not in fresh]:
            self._on_change("DELETED", self.items.pop(key))
        for key, item in fresh.items():
            self._put(key, item)
        return str(answer["metadata"]["resourceVersion"])

    def _put(self, key: Key, item: JsonObject) -> None:
        old = self.items.get(key)
        self.items[key] = item
        if old is None:
            self._on_change("ADDED", item)
        elif old["metadata"]["uid"] != item["metadata"]["uid"]:
            self._on_change("DELETED", old)
            self._on_change("ADDED", item)
        elif old["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            self._on_change("MODIFIED", item)

    async def _follow(self, version: str) -> None:
        while True:
            async for event in self._client.watch(self._path, {**self._params, "resourceVersion": version}):
                kind, item = event["type"], event["object"]
                if kind == "ERROR":
                    raise ApiError(int(item.get("code", 500)), item.get("reason", ""), item.get("message", ""))
                version = item["metadata"]["resourceVersion"]
                if kind == "BOOKMARK":
                    continue
                key = key_of(item)
                if kind == "DELETED":
                    self.items.pop(key, None)
                    self._on_change("DELETED", item)
                else:
                    self._put(key, item)
