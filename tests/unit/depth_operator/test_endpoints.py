"""What the endpoints of a running operator tell."""

from __future__ import annotations

import aiohttp
from aiohttp.test_utils import unused_port
from prometheus_client import CollectorRegistry

from depth_operator.endpoints import serve


async def test_a_process_without_the_api_server_is_alive_and_not_ready() -> None:
    health, metrics = unused_port(), unused_port()
    troubles: list[str | None] = ["get Lease depth-system/depth-operator: no answer", None]
    endpoints = serve(
        CollectorRegistry(),
        lambda: True,
        lambda: troubles[0],
        host="127.0.0.1",
        health_port=health,
        metrics_port=metrics,
    )
    async with endpoints, aiohttp.ClientSession(f"http://127.0.0.1:{health}") as session:
        async with session.get("/healthz") as answer:
            assert answer.status == 200
        async with session.get("/readyz") as answer:
            assert answer.status == 503
            assert await answer.text() == "not ready: get Lease depth-system/depth-operator: no answer\n"
        del troubles[0]
        async with session.get("/readyz") as answer:
            assert answer.status == 200
