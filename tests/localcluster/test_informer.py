from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from localcluster.client import ApiClient, ApiError
from localcluster.informer import Informer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def item(name: str, version: str, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n", "uid": uid, "resourceVersion": version}}


class Server:
    """Plays lists and watches; the last watch stays open."""

    def __init__(self, lists: list[list[dict[str, Any]]], watches: list[list[tuple[str, dict[str, Any]]]]) -> None:
        self.lists, self.watches = lists, watches
        self.done = asyncio.Event()
        self.versions: list[str] = []

    async def get(self, path: str, params: dict[str, str]) -> dict[str, Any]:
        del path, params
        return {"metadata": {"resourceVersion": "10"}, "items": self.lists.pop(0)}

    async def watch(self, path: str, params: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
        del path
        self.versions.append(params["resourceVersion"])
        if not self.watches:
            self.done.set()
            await asyncio.Event().wait()
        for kind, content in self.watches.pop(0):
            yield {"type": kind, "object": content}


async def play(server: Server, monkeypatch: Any) -> tuple[list[str], Informer]:
    monkeypatch.setattr("localcluster.informer.API_RETRY_SECONDS", 0)
    seen: list[str] = []
    informer = Informer(
        cast("ApiClient", server), "/x", lambda change, found: seen.append(f"{change} {found['metadata']['name']}")
    )
    task = asyncio.create_task(informer.run())
    await asyncio.wait_for(server.done.wait(), 10)
    task.cancel()
    await asyncio.wait({task})
    return seen, informer


async def test_watch_goes_on_where_it_ended(monkeypatch: Any) -> None:
    server = Server(
        [[item("a", "1")]],
        [
            [("ADDED", item("b", "11")), ("BOOKMARK", {"metadata": {"resourceVersion": "12"}})],
            [("DELETED", item("a", "13"))],
        ],
    )
    seen, informer = await play(server, monkeypatch)
    assert seen == ["ADDED a", "ADDED b", "DELETED a"]
    assert server.versions == ["10", "12", "13"]
    assert set(informer.items) == {("n", "b")}


async def test_differences_after_an_expired_watch_are_told(monkeypatch: Any) -> None:
    expired = {"code": 410, "reason": "Expired", "message": "too old"}
    server = Server(
        [
            [item("gone", "1"), item("same", "2"), item("changed", "3"), item("replaced", "4", "old")],
            [item("same", "2"), item("changed", "5"), item("replaced", "6", "new"), item("new", "7")],
        ],
        [[("ERROR", expired)]],
    )
    seen, _ = await play(server, monkeypatch)
    assert seen[4:] == ["DELETED gone", "MODIFIED changed", "DELETED replaced", "ADDED replaced", "ADDED new"]


async def test_refused_list_is_tried_again(monkeypatch: Any) -> None:
    class Refusing(Server):
        refusals = 2

        async def get(self, path: str, params: dict[str, str]) -> dict[str, Any]:
            if self.refusals:
                self.refusals -= 1
                raise ApiError(503, "ServiceUnavailable", "starting")
            return await super().get(path, params)

    seen, informer = await play(Refusing([[item("a", "1")]], []), monkeypatch)
    assert seen == ["ADDED a"]
    assert informer.synced.is_set()
