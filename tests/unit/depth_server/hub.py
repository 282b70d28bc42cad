"""A small Hugging Face Hub on loopback: metadata by HEAD, a redirect to a store on another port, ranges, and faults."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What it serves, how it misbehaves and what it was asked.

    Attributes:
        content: The file that is announced.
        stored: What the store really sends, if something else.
        break_after: Bytes after which each answer of the store breaks, the first ones first; None sends all.
        statuses: Statuses of the first answers to HEAD.
        token: Needed, if set.
        honours_range: Whether the store knows ranges.
        requests: Method, path and headers, in order.
    """

    content: bytes
    stored: bytes | None = None
    break_after: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    token: str = ""
    honours_range: bool = True
    is_lfs: bool = True
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    endpoint: str = ""
    store: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def ranges(self) -> list[str | None]:
        """The `Range` of every request to the store."""
        return [headers.get("range") for method, path, headers in self.requests if path.startswith("/store/")]

    def _note(self, request: web.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.method, request.raw_path, headers))

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return web.Response(status=401)
        if request.method == "HEAD" and self.statuses:
            return web.Response(status=self.statuses.pop(0))
        if request.match_info["file"] != "model.pth":
            return web.Response(status=404)
        headers = {"X-Repo-Commit": COMMIT}
        if self.is_lfs:
            headers |= {"X-Linked-Etag": f'"{self.sha256}"', "X-Linked-Size": str(len(self.content))}
            headers |= {"Location": f"{self.store}/store/object"}
            return web.Response(status=302, headers=headers)
        headers |= {"ETag": '"5d41402abc4b2a76b9719d911017c592"', "Content-Length": str(len(self.content))}
        return web.Response(body=self.content if request.method == "GET" else None, headers=headers)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        stored = self.content if self.stored is None else self.stored
        start = 0
        asked = request.headers.get("range")
        if asked and self.honours_range:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        response = web.StreamResponse(status=206 if start else 200)
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(stored) - 1}/{len(stored)}"
        response.content_length = len(stored) - start
        await response.prepare(request)
        limit = self.break_after.pop(0) if self.break_after else None
        await response.write(stored[start:] if limit is None else stored[start : start + limit])
        if limit is not None:
            assert request.transport is not None
            request.transport.close()
        return response


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub and its store on two ports of loopback."""
    loop = asyncio.new_event_loop()
    runners: list[web.AppRunner] = []

    async def start() -> None:
        for attribute, path, handler in (
            ("endpoint", "/{owner}/{name}/resolve/{revision}/{file:.+}", hub.resolve),
            ("store", "/store/object", hub.serve),
        ):
            app = web.Application()
            app.router.add_route("*", path, handler)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            runners.append(runner)
            setattr(hub, attribute, f"http://127.0.0.1:{runner.addresses[0][1]}")

    async def stop() -> None:
        for runner in runners:
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield hub
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
