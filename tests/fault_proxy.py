"""A proxy between the operator and a real API server that strikes at a chosen write.

TLS on both sides; the token in the Authorization header passes through, so RBAC is enforced as without it. It counts
mutating requests, those on Leases aside, and calls back before or after the one that was asked for; that request is
then never answered, as it is when the machine of the operator dies.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MUTATING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-encoding", "content-length", "host"})


class Kind(StrEnum):
    """What a write is for; the two are counted apart, since reports come as events fall together and changes do not."""

    CHANGE = "change"
    """Creates, changes or deletes an object."""
    REPORT = "report"
    """Writes a status or an Event."""

    @classmethod
    def of(cls, path: str) -> Kind:
        return cls.REPORT if path.endswith(("/status", "/events")) else cls.CHANGE


class When(StrEnum):
    """On which side of a write the fault strikes."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True)
class Fault:
    """Strike at the `index`-th write of a kind, counted from 0."""

    kind: Kind
    index: int
    when: When


class FaultProxy:
    """Runs on the event loop that starts it; `writes` may be read from any thread.

    Args:
        upstream: URL of the API server.
        upstream_ca: PEM of the authority that signed its certificate.
        certificate: The proxy's own certificate and key, PEM.
        strike: Called when the fault is due; it has to have had its effect when it returns.
    """

    def __init__(
        self, upstream: str, upstream_ca: str, certificate: tuple[Path, Path], strike: Callable[[], None]
    ) -> None:
        self._upstream = URL(upstream)
        self._client_context = ssl.create_default_context(cadata=upstream_ca)
        self._server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._server_context.load_cert_chain(*certificate)
        self._strike = strike
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self.fault: Fault | None = None
        self.fired = False
        self.writes: dict[Kind, list[str]] = {kind: [] for kind in Kind}

    async def start(self) -> int:
        """Listen on a free port of the loopback interface and return it."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._client_context, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, connect=10),
            auto_decompress=False,
        )
        application = web.Application(client_max_size=16 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._server_context)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    def arm(self, fault: Fault | None) -> None:
        """Count from 0 again, and strike as given."""
        self.fault, self.fired, self.writes = fault, False, {kind: [] for kind in Kind}

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        counted = request.method in MUTATING and "/leases" not in request.path
        fault, due = self.fault, False
        if counted:
            writes = self.writes[kind := Kind.of(request.path)]
            due = fault is not None and not self.fired and (fault.kind, fault.index) == (kind, len(writes))
            writes.append(f"{request.method} {request.path_qs}")
        if due and fault is not None and fault.when is When.BEFORE:
            return await self._strike_and_drop(request)
        try:
            return await self._forward(request, drop=due)
        except (aiohttp.ClientError, ConnectionError):
            self._drop(request)
            raise

    async def _forward(self, request: web.Request, *, drop: bool) -> web.StreamResponse:
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        body = await request.read()
        url = self._upstream.join(URL(request.raw_path, encoded=True))
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            if drop:
                await answer.read()
                return await self._strike_and_drop(request)
            passed = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=passed)
            await response.prepare(request)
            with suppress(ConnectionError):  # the client may leave a watch at any time
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
            return response

    async def _strike_and_drop(self, request: web.Request) -> web.StreamResponse:
        self.fired = True
        await asyncio.get_running_loop().run_in_executor(None, self._strike)
        self._drop(request)
        raise asyncio.CancelledError

    def _drop(self, request: web.Request) -> None:
        if request.transport is not None:
            request.transport.abort()
