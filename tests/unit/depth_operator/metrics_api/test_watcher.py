from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from depth_operator.metrics_api.cluster import ClusterError
from depth_operator.metrics_api.store import PublishedReplicas, published_replicas
from depth_operator.metrics_api.watcher import follow
from tests.unit.depth_operator.metrics_api.conftest import service

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Each look is a second later."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


class Stop(threading.Event):
    """Waits for nothing; remembers for how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        return self.is_set()


Event = tuple[str, Mapping[str, Any]]


class Script:
    """A kube-apiserver that plays lists and watches one after the other, then stops the watcher."""

    def __init__(self, stop: Stop, *acts: list[Mapping[str, Any]] | list[Event] | ClusterError) -> None:
        self.stop = stop
        self.acts = list(acts)
        self.versions: list[str] = []

    def _next(self) -> Any:
        act = self.acts.pop(0)
        if not self.acts:
            self.stop.set()
        if isinstance(act, ClusterError):
            raise act
        return act

    def list_services(self) -> tuple[list[Mapping[str, Any]], str]:
        return self._next(), "10"

    def watch_services(self, resource_version: str, seconds: float) -> Iterator[Event]:
        assert seconds > 0
        self.versions.append(resource_version)
        yield from self._next()


def bookmark(version: str) -> Event:
    return "BOOKMARK", {"metadata": {"resourceVersion": version}}


def play(*acts: Any) -> tuple[PublishedReplicas, Script, Stop]:
    stop, store = Stop(), PublishedReplicas()
    script = Script(stop, *acts)
    follow(script, store, stop, Clock())
    return store, script, stop


def test_list_then_watch_on_and_on() -> None:
    changed = service("depth", 4)
    changed["metadata"]["resourceVersion"] = "11"
    store, script, _ = play([service("depth", 1)], [("MODIFIED", changed), bookmark("15")], [], [])

    assert store.in_namespace("vision") == {"depth": 4}
    assert script.versions == ["10", "15", "15"]


def test_a_quiet_watch_confirms_the_values() -> None:
    store, _, _ = play([service("depth", 1)], [], [], [], [])

    assert store.as_of == START + timedelta(seconds=5)


def test_after_a_failure_everything_is_listed_again_and_the_old_values_stay_until_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = ClusterError("cannot watch DepthServices: 410 Gone")
    stop, store = Stop(), PublishedReplicas()
    seen: list[dict[str, int]] = []

    class Watching(Script):
        def list_services(self) -> tuple[list[Mapping[str, Any]], str]:
            seen.append(store.in_namespace("vision"))
            return super().list_services()

    script = Watching(stop, [service("depth", 1)], gone, ClusterError("down"), [service("other", 2)], [])
    follow(script, store, stop, Clock())

    assert seen == [{}, {"depth": 1}, {"depth": 1}]
    assert store.in_namespace("vision") == {"other": 2}
    assert "410 Gone; the last known replicas are served, next try in 0.5 s" in caplog.text


def test_delays_grow_to_a_bound() -> None:
    failures = [ClusterError("down")] * 6
    _, _, stop = play(*failures)

    assert stop.waited == [0.5, 1.0, 2.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("status", "replicas"),
    [
        ({"autoscaling": {"desiredReplicas": 3}}, 3),
        ({"autoscaling": {"desiredReplicas": 0}}, 0),
        ({"autoscaling": {}}, None),
        ({"autoscaling": None}, None),
        ({}, None),
        (None, None),
        ({"autoscaling": {"desiredReplicas": "3"}}, None),
        ({"autoscaling": {"desiredReplicas": -1}}, None),
        ({"autoscaling": {"desiredReplicas": True}}, None),
    ],
)
def test_only_a_published_number_is_served(status: Any, replicas: int | None) -> None:
    assert published_replicas({"status": status}) == replicas


def test_a_number_that_is_withdrawn_is_not_served_any_more() -> None:
    store, _, _ = play([service("depth", 1)], [("MODIFIED", service("depth", None))], [])

    assert store.in_namespace("vision") == {}
