"""The adapter against a server on loopback that does what a metrics source must not do."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from depth_operator.adapters.prometheus import PrometheusMetrics
from depth_operator.scaling.policy import decide
from depth_operator.scaling.queries import SAMPLE_AGE
from depth_operator.scaling.types import (
    SIGNAL_NAMES,
    DataQuality,
    Memory,
    Missing,
    MissingReason,
    Observation,
    Sample,
    Signals,
    Targets,
)


@dataclass(frozen=True)
class Key:
    namespace: str = "vision"
    name: str = "depth"


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def prometheus(handler: Handler) -> AsyncIterator[str]:
    """A server whose query API is `handler`; the address to ask."""
    application = web.Application()
    application.router.add_post("/prefix/api/v1/query", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/prefix/"
    finally:
        await runner.cleanup()


def answers(body: Any, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status)

    return handler


def vector(values: dict[str, str], **extra: Any) -> dict[str, Any]:
    result = [{"metric": {"signal": name}, "value": [1.0, value]} for name, value in values.items()]
    return {"status": "success", "data": {"resultType": "vector", "result": result}, **extra}


FULL = dict.fromkeys(SIGNAL_NAMES, "2.5") | {SAMPLE_AGE: "7"}


async def ask(handler: Handler, **options: Any) -> Signals:
    async with prometheus(handler) as address, PrometheusMetrics(address, **options) as metrics:
        return await metrics.signals(Key())


def quality(signals: Signals) -> DataQuality:
    decision = decide(Targets(1, 8), Observation(5, 5, 0, 0, False, None), signals, Memory.initial(), 0.0)
    assert decision.desired_replicas == 5
    return decision.data_quality


async def test_values_become_samples_with_the_age_of_the_youngest_scrape() -> None:
    signals = await ask(answers(vector(FULL)))

    assert signals == Signals(*[Sample(2.5, 7.0)] * 7)


async def test_the_query_names_the_service() -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(str((await request.post())["query"]))
        return web.json_response(vector(FULL))

    await ask(handler, window_seconds=29.5)

    assert 'namespace="vision",service="depth"' in seen[0]
    assert "[30s]" in seen[0]


FAULTS = {
    "500": (answers("<html>oops</html>", 500), "answered 500"),
    "bad query": (
        answers({"status": "error", "errorType": "bad_data", "error": "parse error"}, 400),
        "answered 400: parse error",
    ),
    "error with 200": (answers({"status": "error", "error": "query timed out"}), "status 'error': query timed out"),
    "garbage": (answers("\x00not json"), "not a result of its query API"),
    "no object": (answers([1, 2]), "not a result of its query API"),
    "wrong type": (
        answers({"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}}),
        "not a result of its query API",
    ),
    "wrong shape": (
        answers({"status": "success", "data": {"resultType": "vector", "result": [{"value": []}]}}),
        "not a result of its query API",
    ),
    "no number": (answers(vector({"offered_rate": "many"})), "not a result of its query API"),
    "deep nesting": (answers("[" * 30_000), "not a result of its query API"),
    "too many bytes": (answers("x" * 200_000), "answered with more than 65536 bytes"),
    "too many series": (
        answers(
            {
                "status": "success",
                "data": {
                    "resultType": "vector",
                    "result": [{"metric": {"signal": "offered_rate"}, "value": [1, "1"]}] * 2,
                },
            }
        ),
        "more than one value for 'offered_rate'",
    ),
    "redirect": (answers("", 302), "answered 302"),
}


@pytest.mark.parametrize(("handler", "message"), FAULTS.values(), ids=FAULTS.keys())
async def test_faults_are_data(handler: Handler, message: str) -> None:
    signals = await ask(handler)

    assert isinstance(signals.offered_rate, Missing)
    assert signals.offered_rate.reason is MissingReason.UNAVAILABLE
    assert message in signals.offered_rate.message
    assert "/prefix" in signals.offered_rate.message
    assert quality(signals) is DataQuality.ERROR


async def test_nothing_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with PrometheusMetrics(f"http://127.0.0.1:{unused.getsockname()[1]}") as metrics:
            signals = await metrics.signals(Key())

    assert isinstance(signals.queue_depth, Missing)
    assert "cannot be reached" in signals.queue_depth.message
    assert "check that it runs" in signals.queue_depth.message


async def test_a_server_that_hangs_costs_no_more_than_the_timeout() -> None:
    release = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with prometheus(hang) as address, PrometheusMetrics(address, timeout_seconds=0.05) as metrics:
        signals = await metrics.signals(Key())
        release.set()

    assert isinstance(signals.queue_depth, Missing)
    assert "did not answer within 0.05 s" in signals.queue_depth.message


async def test_a_server_that_trickles_is_cut_off_as_well() -> None:
    release = asyncio.Event()

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"status": ')
        await release.wait()
        return response

    async with prometheus(trickle) as address, PrometheusMetrics(address, timeout_seconds=0.05) as metrics:
        signals = await metrics.signals(Key())
        release.set()

    assert isinstance(signals.queue_depth, Missing)
    assert "did not answer within" in signals.queue_depth.message


async def test_a_compressed_answer_is_not_unpacked() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        response = web.json_response(vector(FULL))
        response.enable_compression(web.ContentCoding.gzip)
        return response

    signals = await ask(handler)

    assert isinstance(signals.offered_rate, Missing)
    assert "not a result of its query API" in signals.offered_rate.message


async def test_an_empty_answer_is_missing_and_tells_where_to_look() -> None:
    signals = await ask(answers(vector({})))

    assert isinstance(signals.offered_rate, Missing)
    assert signals.offered_rate.reason is MissingReason.NO_SERIES
    assert "no current samples of vision/depth" in signals.offered_rate.message
    assert quality(signals) is DataQuality.MISSING


async def test_rates_without_a_current_sample_are_not_believed() -> None:
    """Rates outlive their pods by a window; nothing dates them once the gauges are gone."""
    signals = await ask(answers(vector({"offered_rate": "0", "finished_rate": "0", "busy_rate": "0"})))

    assert isinstance(signals.offered_rate, Missing)
    assert signals.offered_rate.reason is MissingReason.NO_SERIES


async def test_one_absent_signal_leaves_the_others() -> None:
    signals = await ask(answers(vector({name: "2" for name in FULL if name != "queue_depth"} | {SAMPLE_AGE: "1"})))

    assert isinstance(signals.queue_depth, Missing)
    assert "has no queue_depth of vision/depth" in signals.queue_depth.message
    assert signals.offered_rate == Sample(2.0, 1.0)
    assert quality(signals) is DataQuality.PARTIAL


async def test_a_percentile_of_nothing_is_no_fault_but_any_other_nan_is() -> None:
    signals = await ask(answers(vector(FULL | {"latency_p95_seconds": "NaN", "queue_depth": "NaN"})))

    assert isinstance(signals.latency_p95_seconds, Missing)
    assert signals.latency_p95_seconds.reason is MissingReason.NO_OBSERVATIONS
    assert quality(signals) is DataQuality.PARTIAL


async def test_warnings_are_passed_on() -> None:
    signals = await ask(answers(vector(FULL, warnings=["a store did not answer"], infos=["not a counter?"])))

    assert signals.warning == "a store did not answer"
    assert quality(signals) is DataQuality.PARTIAL


@pytest.mark.parametrize("address", ["prometheus:9090", "ftp://prometheus", "http://", ""])
def test_an_address_that_is_no_url_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="must be a URL such as"):
        PrometheusMetrics(address)
