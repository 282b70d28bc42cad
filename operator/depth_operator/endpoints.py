"""The health and metrics endpoints of ``run``."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@asynccontextmanager
async def serve(
    registry: CollectorRegistry,
    is_alive: Callable[[], bool],
    not_ready_because: Callable[[], str | None],
    *,
    host: str,
    health_port: int,
    metrics_port: int,
) -> AsyncIterator[None]:
    """Serve /healthz and /readyz on one port and /metrics on another for the time of the context.

    Args:
        registry: What /metrics shows.
        is_alive: What /healthz tells: False asks for a restart of the process.
        not_ready_because: What /readyz tells, None if the process can work.
        host: Address to listen on.
        health_port: Port of the health endpoint; 0 takes a free one.
        metrics_port: Port of the metrics endpoint; 0 takes a free one.

    Raises:
        OSError: an address is in use.
    """

    async def healthz(_: web.Request) -> web.Response:
        if is_alive():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="a task of the controller has ended; the log says why\n")

    async def readyz(_: web.Request) -> web.Response:
        if reason := not_ready_because():
            return web.Response(status=503, text=f"not ready: {reason}\n")
        return web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    health = web.Application()
    health.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    exposition = web.Application()
    exposition.add_routes([web.get("/metrics", metrics)])
    runners = [web.AppRunner(application, access_log=None) for application in (health, exposition)]
    try:
        for runner, port in zip(runners, (health_port, metrics_port), strict=True):
            await runner.setup()
            await web.TCPSite(runner, host, port).start()
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
