"""The queries against a real Prometheus that scrapes pods with known rates.

Rates are compared within 15 %: `rate()` extrapolates from samples that are taken while the counters move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from depth_operator.adapters.prometheus import PrometheusMetrics
from depth_operator.scaling.policy import decide
from depth_operator.scaling.types import (
    DataQuality,
    Memory,
    Missing,
    MissingReason,
    Observation,
    Sample,
    Signal,
    Signals,
    Targets,
)
from tests.prometheus.exporter import WINDOW_SECONDS, Pod, exporter, find_prometheus, prometheus, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PROGRAM = find_prometheus()

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no prometheus on PATH or in the cache; `python -m localcluster up` builds it"
)


@dataclass(frozen=True)
class Key:
    name: str = "depth"
    namespace: str = "vision"


@dataclass
class Scraped:
    """A running Prometheus with its pods, seen through the adapter."""

    metrics: PrometheusMetrics
    pods: dict[str, Pod]

    async def signals(self, key: Key | None = None) -> Signals:
        return await self.metrics.signals(key or Key())


def value(signal: Signal) -> float | None:
    return signal.value if isinstance(signal, Sample) else None


def near(expected: float) -> object:
    return pytest.approx(expected, rel=0.15, abs=0.01)


@pytest.fixture
async def scraped(tmp_path: Path) -> AsyncIterator[Scraped]:
    pods = [
        Pod("gpu", success_rate=4.0, rejected_rate=3.0, invalid_rate=50.0, worker_busy=0.9, gpu_busy=0.5, queue=3),
        Pod("cpu", success_rate=2.0, worker_busy=0.3, queue=1),
        Pod("other", service="neighbour", success_rate=100.0, worker_busy=1.0, queue=40),
        Pod("twin", namespace="elsewhere", success_rate=100.0, worker_busy=1.0, queue=40),
        Pod("cold", service="cold", warm=False),
        Pod("idle", service="idle"),
    ]
    assert PROGRAM is not None
    async with (
        exporter(pods) as port,
        prometheus(PROGRAM, tmp_path, [pod.job(port) for pod in pods]) as address,
        PrometheusMetrics(address, window_seconds=WINDOW_SECONDS, stale_after_seconds=3) as metrics,
    ):
        yield Scraped(metrics, {pod.name: pod for pod in pods})


async def test_numbers_then_coverage_then_staleness(scraped: Scraped) -> None:
    """One walk, since a Prometheus with a full window takes seconds to have."""
    signals = await wait_for(scraped.signals, lambda seen: value(seen.offered_rate) == near(9.0))

    assert value(signals.offered_rate) == near(9.0), "success and rejected of both pods, invalid of none"
    assert value(signals.finished_rate) == near(6.0)
    assert value(signals.busy_rate) == near(0.8), "0.5 of the GPU and 0.3 of the pod without one"
    assert value(signals.queue_depth) == 4
    assert value(signals.reporting_pods) == 2
    assert value(signals.latency_p95_seconds) == pytest.approx(0.195)
    assert value(signals.queue_wait_p95_seconds) == pytest.approx(0.0095)
    assert isinstance(signals.offered_rate, Sample)
    assert 0 <= signals.offered_rate.age_seconds < 2
    assert signals.warning == ""

    idle = await scraped.signals(Key("idle"))
    assert [value(signal) for signal in (idle.offered_rate, idle.busy_rate, idle.reporting_pods)] == [0, 0, 1]
    assert isinstance(idle.latency_p95_seconds, Missing)
    assert idle.latency_p95_seconds.reason is MissingReason.NO_OBSERVATIONS

    cold = await scraped.signals(Key("cold"))
    assert isinstance(cold.queue_depth, Missing), "a pod that warms up exports no load"

    scraped.pods["gpu"].up = False
    signals = await wait_for(scraped.signals, lambda seen: value(seen.reporting_pods) == 1)
    assert value(signals.queue_depth) == 1

    scraped.pods["cpu"].up = False
    signals = await wait_for(scraped.signals, lambda seen: isinstance(seen.queue_depth, Missing))
    assert isinstance(signals.offered_rate, Missing), "rates outlive their pods by a window and are not believed"
    assert "no current samples of vision/depth" in signals.offered_rate.message
    decision = decide(Targets(1, 8), Observation(2, 2, 0, 0, False, 2), signals, Memory.initial(), 0.0)
    assert (decision.desired_replicas, decision.data_quality) == (2, DataQuality.MISSING)


async def test_a_service_that_is_not_scraped_is_missing(scraped: Scraped) -> None:
    signals = await scraped.signals(Key('no "such" \\service'))

    assert isinstance(signals.offered_rate, Missing)
    assert signals.offered_rate.reason is MissingReason.NO_SERIES, "an odd name leaves the query whole"
