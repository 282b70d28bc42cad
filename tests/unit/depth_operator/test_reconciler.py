"""What a reconcile does with time and with trouble; what it writes is tested on a real API server."""

# ruff: noqa: ARG002 - the fakes have the signatures of the ports

from __future__ import annotations

import copy
from typing import Any

import pytest

from depth_operator.api.conditions import find_condition
from depth_operator.api.naming import Key
from depth_operator.errors import ApiError, RefusedError, UnavailableError
from depth_operator.reconciler import Config, Reconciler, Result
from depth_operator.render.deployment import template_hash
from depth_operator.scaling.policy import decide
from depth_operator.scaling.types import Decision, Memory, Sample, Signals
from tests.unit.depth_operator.builders import NAME, NAMESPACE, autoscaling, manifest, pod

KEY = Key(NAMESPACE, NAME)


class FakeCluster:
    """Keeps what is applied, as if nobody else wrote. Refuses what it is told to."""

    def __init__(self, service: dict[str, Any] | None) -> None:
        self.service = service
        self.children: dict[str, dict[str, Any]] = {}
        self.refusals: dict[str, ApiError] = {}
        self.statuses: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.version = 1

    async def list_depth_services(self) -> list[Key]:
        return [KEY]

    async def get_depth_service(self, key: Key) -> dict[str, Any] | None:
        self.check("get")
        return copy.deepcopy(self.service)

    async def get_child(self, kind: str, key: Key) -> dict[str, Any] | None:
        return copy.deepcopy(self.children.get(kind))

    async def list_pods(self, key: Key) -> list[dict[str, Any]]:
        deployment = self.children.get("Deployment")
        return [pod(ready=True, template_hash=template_hash(deployment))] if deployment else []

    async def apply(self, manifest: dict[str, Any], field_manager: str) -> dict[str, Any]:
        self.check(manifest["kind"])
        self.version += 1
        applied = copy.deepcopy(manifest)
        applied["metadata"] |= {"uid": manifest["kind"], "resourceVersion": str(self.version)}
        self.children[manifest["kind"]] = applied
        return copy.deepcopy(applied)

    async def delete(self, manifest: dict[str, Any]) -> None:
        del self.children[manifest["kind"]]

    async def apply_status(self, service: dict[str, Any], status: dict[str, Any]) -> None:
        self.check("status")
        assert self.service is not None
        self.service["status"] = copy.deepcopy(status)
        self.statuses.append(status)

    async def create_event(
        self, service: dict[str, Any], *, event_type: str, reason: str, action: str, message: str
    ) -> None:
        self.check("Event")
        self.events.append(reason)

    def check(self, what: str) -> None:
        if what in self.refusals:
            raise self.refusals[what]


class Load:
    """A metrics source whose measured values a test changes."""

    def __init__(self) -> None:
        self.rate = 0.3

    async def signals(self, key: Key) -> Signals:
        sample = Sample(self.rate, 1.0)
        return Signals(sample, sample, sample, sample, sample, sample, Sample(1.0, 1.0))


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(cluster: FakeCluster, load: Load | None = None, clock: Clock | None = None) -> Reconciler:
    config = Config(server_image="image:1", scaling_interval_seconds=5, signals_refresh_seconds=30)
    return Reconciler(cluster, load or Load(), config, monotonic=clock or Clock(), wall=lambda: "2026-01-01T00:00:00Z")


def ready(cluster: FakeCluster) -> tuple[str, str]:
    condition = find_condition(cluster.statuses[-1]["conditions"], "Ready")
    assert condition is not None
    return condition["reason"], condition["message"]


async def test_a_service_that_is_gone_or_going_is_left_alone() -> None:
    assert await make(FakeCluster(None)).reconcile(KEY) == Result()
    going = manifest()
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster = FakeCluster(going)
    assert await make(cluster).reconcile(KEY) == Result()
    assert cluster.children == {}
    assert cluster.statuses == []


async def test_a_spec_of_another_version_is_refused_with_its_path_and_not_retried() -> None:
    cluster = FakeCluster(manifest(runtime={"engine": "TensorRT"}))
    assert await make(cluster).reconcile(KEY) == Result()
    reason, message = ready(cluster)
    assert reason == "InvalidSpec"
    assert "spec.runtime.engine" in message
    assert "upgrade the operator" in message
    assert cluster.children == {}


async def test_measured_values_alone_are_written_only_now_and_then_and_a_decision_at_once() -> None:
    cluster, load, clock = FakeCluster(manifest(autoscaling=autoscaling(1, 4))), Load(), Clock()
    reconciler = make(cluster, load, clock)
    for _ in range(2):
        result = await reconciler.reconcile(KEY)
        assert result.requeue_after_seconds == 5
    written = len(cluster.statuses)
    for step in range(1, 6):
        clock.now, load.rate = step * 5.0, 0.3 + step / 1000
        await reconciler.reconcile(KEY)
    assert len(cluster.statuses) == written
    clock.now, load.rate = 31.0, 0.31
    await reconciler.reconcile(KEY)
    assert len(cluster.statuses) == written + 1
    assert cluster.service is not None
    cluster.service["spec"]["autoscaling"]["minReplicas"] = 3
    clock.now = 32.0
    await reconciler.reconcile(KEY)
    assert len(cluster.statuses) == written + 2
    assert cluster.statuses[-1]["autoscaling"]["desiredReplicas"] >= 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RefusedError("apply Deployment", 403, "Forbidden", "may not create"), "ChildRefused"),
        (UnavailableError("apply Deployment", 503, "ServiceUnavailable", "no", 7.0), "Creating"),
    ],
)
async def test_one_child_that_fails_stops_neither_the_others_nor_the_status(error: ApiError, reason: str) -> None:
    cluster = FakeCluster(manifest(autoscaling=autoscaling()))
    cluster.refusals["Deployment"] = error
    result = await make(cluster).reconcile(KEY)
    assert result.retry
    assert result.retry_after_seconds is not None
    assert set(cluster.children) == {"Service", "HorizontalPodAutoscaler"}
    assert ready(cluster)[0] == reason


async def test_a_service_that_is_created_again_starts_without_the_memory_of_its_predecessor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the time between was so short that nobody saw it missing."""
    memories: list[Memory] = []

    def recording(*args: Any) -> Decision:
        memories.append(args[3])
        return decide(*args)

    monkeypatch.setattr("depth_operator.reconciler.decide", recording)
    cluster = FakeCluster(manifest(autoscaling=autoscaling(1, 8)))
    reconciler = make(cluster)
    await reconciler.reconcile(KEY)
    await reconciler.reconcile(KEY)
    cluster.service = manifest(autoscaling=autoscaling(1, 8))
    cluster.service["metadata"]["uid"] = "successor"
    await reconciler.reconcile(KEY)
    assert [memory == Memory.initial() for memory in memories] == [True, False, True]


async def test_a_pod_that_is_being_deleted_is_expected_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pod reports, one is ready and one terminates: it is not known which of the two is silent."""
    cluster = FakeCluster(manifest(autoscaling=autoscaling(1, 4)))
    reconciler = make(cluster)
    await reconciler.reconcile(KEY)
    present = await cluster.list_pods(KEY)

    async def list_pods(_: Key) -> list[dict[str, Any]]:
        return [*present, pod("going", ready=True, terminating=True)]

    monkeypatch.setattr(cluster, "list_pods", list_pods)
    await reconciler.reconcile(KEY)
    metrics = find_condition(cluster.statuses[-1]["conditions"], "MetricsAvailable")
    assert metrics is not None
    assert "1 of 2 ready or terminating pods report metrics" in metrics["message"]


async def test_an_event_comes_after_the_status_and_its_loss_is_no_failure() -> None:
    cluster = FakeCluster(manifest())
    cluster.refusals["status"] = UnavailableError("apply status", 503, "ServiceUnavailable", "no")
    with pytest.raises(UnavailableError):
        await make(cluster).reconcile(KEY)
    assert cluster.events == []
    del cluster.refusals["status"]
    cluster.refusals["Event"] = RefusedError("create Event", 403, "Forbidden", "no")
    assert not (await make(cluster).reconcile(KEY)).retry
    assert len(cluster.statuses) == 1


async def test_state_that_cannot_be_read_is_for_the_caller_to_retry() -> None:
    cluster = FakeCluster(manifest())
    cluster.refusals["get"] = UnavailableError("get", 0, "Unreachable", "no route")
    with pytest.raises(UnavailableError):
        await make(cluster).reconcile(KEY)
