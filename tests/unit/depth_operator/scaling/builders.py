"""Inputs of a decision with the values of a quiet, healthy service; each test changes what it is about."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from depth_operator.scaling.parameters import PolicyParameters
from depth_operator.scaling.policy import decide
from depth_operator.scaling.types import (
    Decision,
    Memory,
    Missing,
    MissingReason,
    Observation,
    Sample,
    Signal,
    Signals,
    Targets,
)

WINDOW = PolicyParameters().stabilization_window_seconds


def sample(value: float, age_seconds: float = 5.0) -> Sample:
    return Sample(value, age_seconds)


def missing(reason: MissingReason = MissingReason.NO_SERIES) -> Missing:
    return Missing(reason, "There is no such series.")


def make_signals(
    offered: float | Signal = 0.0,
    *,
    capacity: float = 3.0,
    queue: float | Signal = 0.0,
    p95: float | Signal = 0.1,
    wait: float | Signal = 0.0,
    reporting: float | Signal = 1.0,
    finished: float | Signal | None = None,
    busy: float | Signal | None = None,
) -> Signals:
    """Signals of pods that finish all that is offered, `capacity` images in each busy second."""
    done = offered if isinstance(offered, (int, float)) else 1.0

    def as_signal(value: float | Signal) -> Signal:
        return sample(value) if isinstance(value, (int, float)) else value

    return Signals(
        offered_rate=as_signal(offered),
        finished_rate=as_signal(done if finished is None else finished),
        busy_rate=as_signal(done / capacity if busy is None else busy),
        queue_depth=as_signal(queue),
        latency_p95_seconds=as_signal(p95),
        queue_wait_p95_seconds=as_signal(wait),
        reporting_pods=as_signal(reporting),
    )


def make_observation(
    current: int = 1,
    *,
    ready: int | None = None,
    pending: int = 0,
    terminating: int = 0,
    rollout: bool = False,
    published: int | None = None,
) -> Observation:
    return Observation(current, current if ready is None else ready, pending, terminating, rollout, published)


def make_targets(
    min_replicas: int = 1, max_replicas: int = 8, *, utilization: int | None = 70, latency: int | None = None
) -> Targets:
    return Targets(min_replicas, max_replicas, utilization, latency)


def watched(needed: int = 1, *, now: float = 0.0, capacity: float | None = 3.0) -> Memory:
    """The memory of an operator that has seen `needed` replicas be enough for longer than the window, up to `now`."""
    memory = Memory(capacity_images_per_busy_second=capacity)
    signals = make_signals(0.0 if needed <= 1 else (needed - 0.5) * 3.0 * 0.7, reporting=needed)
    start = now - WINDOW - 60
    while start < now:
        memory = decide(make_targets(max_replicas=100), make_observation(needed), signals, memory, start).memory
        start += 30
    return replace(memory, capacity_images_per_busy_second=capacity)


@dataclass
class Service:
    """A DepthService whose scaler does at once what is published, on a virtual clock."""

    targets: Targets = field(default_factory=make_targets)
    replicas: int = 1
    memory: Memory = field(default_factory=Memory.initial)
    now: float = 1000.0
    published: int | None = None
    decisions: list[tuple[float, Decision]] = field(default_factory=list)

    def step(self, signals: Signals, *, seconds: float = 5.0, rollout: bool = False) -> Decision:
        self.now += seconds
        observation = make_observation(self.replicas, rollout=rollout, published=self.published)
        decision = decide(self.targets, observation, signals, self.memory, self.now)
        self.memory, self.published = decision.memory, decision.desired_replicas
        self.replicas = decision.desired_replicas
        self.decisions.append((self.now, decision))
        return decision
