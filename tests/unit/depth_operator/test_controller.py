"""The tasks around the queue: one worker per key, retries, resync, a broken reconcile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from depth_operator.api.naming import Key
from depth_operator.controller import Controller, ControllerConfig
from depth_operator.errors import NotLeadingError, UnavailableError
from depth_operator.reconciler import Result
from depth_operator.telemetry import ReconcileMetrics

A, B = Key("default", "a"), Key("default", "b")


class Listing:
    """The one method of the cluster that the controller itself uses."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.failures = 0

    async def list_depth_services(self) -> list[Key]:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("list DepthService", 503, "ServiceUnavailable", "no")
        return self.keys


Step = Callable[[Key, bool], Any]


@asynccontextmanager
async def running(
    reconcile: Any, *, listing: Listing | None = None, **changes: Any
) -> AsyncIterator[tuple[Controller, CollectorRegistry]]:
    config = {
        "workers": 3,
        "resync_interval_seconds": 3600.0,
        "reconcile_timeout_seconds": 30.0,
        "backoff_base_seconds": 0.001,
        "backoff_cap_seconds": 0.01,
        **changes,
    }
    registry = CollectorRegistry()
    cluster: Any = listing or Listing()
    controller = Controller(
        reconcile, cluster, ControllerConfig(**config), ReconcileMetrics(registry), monotonic=time.monotonic
    )
    controller.start()
    try:
        yield controller, registry
    finally:
        await controller.stop()


async def test_a_key_is_never_in_two_workers_and_no_wake_up_is_lost() -> None:
    active: set[Key] = set()
    seen: list[Key] = []
    release = asyncio.Event()
    started = asyncio.Event()
    finished = asyncio.Event()

    async def reconcile(key: Key, **_: bool) -> Result:
        assert key not in active
        active.add(key)
        seen.append(key)
        started.set()
        await release.wait()
        active.discard(key)
        if seen.count(A) == 2:
            finished.set()
        return Result()

    async with running(reconcile) as (controller, _):
        controller.enqueue(A)
        await started.wait()
        controller.enqueue(A)
        controller.enqueue(A)
        release.set()
        await asyncio.wait_for(finished.wait(), 5)
    assert seen == [A, A]


async def test_keys_do_not_wait_for_each_other() -> None:
    both = asyncio.Barrier(2)

    async def reconcile(_: Key, **__: bool) -> Result:
        await both.wait()
        return Result()

    async with running(reconcile) as (controller, _):
        controller.enqueue(A)
        controller.enqueue(B)
        async with asyncio.timeout(5):
            await until(lambda: both.n_waiting == 0 and not both.broken)


@pytest.mark.parametrize(
    "failure",
    [
        UnavailableError("get", 503, "ServiceUnavailable", "no"),
        RuntimeError("a defect"),
        TimeoutError(),
        Result(retry=True),
    ],
)
async def test_a_failure_is_retried_and_ends_no_worker(failure: Exception | Result) -> None:
    attempts: list[Key] = []
    done = asyncio.Event()

    async def reconcile(key: Key, **_: bool) -> Result:
        attempts.append(key)
        if len(attempts) < 3:
            if isinstance(failure, Exception):
                raise failure
            return failure
        done.set()
        return Result()

    async with running(reconcile, workers=1) as (controller, registry):
        controller.enqueue(A)
        await asyncio.wait_for(done.wait(), 5)
        await until(lambda: registry.get_sample_value("depth_operator_reconcile_total", {"result": "success"}) == 1)
        assert controller.is_alive


async def test_a_hanging_reconcile_is_cancelled_and_retried() -> None:
    attempts: list[Key] = []
    done = asyncio.Event()

    async def reconcile(key: Key, **_: bool) -> Result:
        attempts.append(key)
        if len(attempts) == 1:
            await asyncio.Event().wait()
        done.set()
        return Result()

    async with running(reconcile, reconcile_timeout_seconds=0.01) as (controller, _):
        controller.enqueue(A)
        await asyncio.wait_for(done.wait(), 5)


async def test_a_deposed_leader_does_not_retry() -> None:
    attempts: list[Key] = []

    async def reconcile(key: Key, **_: bool) -> Result:
        attempts.append(key)
        if key == A:
            raise NotLeadingError("no Lease")
        return Result()

    async with running(reconcile, workers=1) as (controller, registry):
        controller.enqueue(A)
        controller.enqueue(B)
        await until(lambda: registry.get_sample_value("depth_operator_reconcile_total", {"result": "success"}) == 1)
    assert attempts == [A, B]


async def test_a_key_comes_back_when_the_reconcile_asks_for_it() -> None:
    attempts: list[Key] = []
    done = asyncio.Event()

    async def reconcile(key: Key, **_: bool) -> Result:
        attempts.append(key)
        if len(attempts) == 3:
            done.set()
        return Result(requeue_after_seconds=0.001)

    async with running(reconcile) as (controller, _):
        controller.enqueue(A)
        await asyncio.wait_for(done.wait(), 5)


@pytest.mark.parametrize("result", [Result(retry=True), Result(retry=True, retry_after_seconds=3600.0)])
async def test_a_scaling_interval_does_not_shorten_a_pause(result: Result) -> None:
    """A trouble with an autoscaled service is retried when the back-off or the API server says, not when it scales."""
    seen: list[Key] = []

    async def reconcile(key: Key, **_: bool) -> Result:
        seen.append(key)
        return replace(result, requeue_after_seconds=0.001) if key == A else Result(requeue_after_seconds=0.001)

    pauses = {"backoff_base_seconds": 3600.0, "backoff_cap_seconds": 3600.0}
    async with running(reconcile, workers=1, **pauses) as (controller, _):
        controller.enqueue(A)
        controller.enqueue(B)
        await until(lambda: seen.count(B) == 5)
    assert seen.count(A) == 1


async def test_the_resync_applies_everything_in_full_and_survives_an_outage() -> None:
    seen: dict[Key, bool] = {}
    listing = Listing()
    listing.keys = [A, B]
    listing.failures = 1

    async def reconcile(key: Key, *, full: bool = False) -> Result:
        seen[key] = full
        return Result()

    async with running(reconcile, listing=listing, resync_interval_seconds=0.01) as (controller, _):
        await until(lambda: seen == {A: True, B: True})
        assert controller.is_alive


async def test_a_full_reconcile_that_fails_is_retried_in_full() -> None:
    calls: list[bool] = []
    listing = Listing()
    listing.keys = [A]

    async def reconcile(_: Key, *, full: bool = False) -> Result:
        calls.append(full)
        if len(calls) == 1:
            listing.keys = []
            raise UnavailableError("get", 503, "ServiceUnavailable", "no")
        return Result()

    async with running(reconcile, listing=listing, resync_interval_seconds=0.01):
        await until(lambda: len(calls) == 2)
    assert calls == [True, True]


async def test_a_stop_is_not_lost_when_a_wake_up_comes_at_the_same_time() -> None:
    seen: list[Key] = []

    async def reconcile(key: Key, **__: bool) -> Result:
        seen.append(key)
        return Result(requeue_after_seconds=3600.0)  # so that the workers sleep with a time limit

    async with asyncio.timeout(5.0), running(reconcile) as (controller, _):
        controller.enqueue(A)
        await until(lambda: seen == [A])
        await asyncio.sleep(0.01)
        # Wakes every worker; one turn later its waiting is over, and that is when it is cancelled.
        controller.enqueue(B)
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until something holds, and fail if it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is a state of the code under test, not an event
            await asyncio.sleep(0)
