"""What the control law never does, whatever it is shown."""

from __future__ import annotations

import math
from dataclasses import fields, replace

from hypothesis import assume, given
from hypothesis import strategies as st

from depth_operator.scaling.assessment import assess
from depth_operator.scaling.policy import DEFAULT_PARAMETERS, decide
from depth_operator.scaling.types import (
    SIGNAL_NAMES,
    DataQuality,
    Memory,
    Missing,
    MissingReason,
    Observation,
    Recommendation,
    Sample,
    Signal,
    Signals,
    Targets,
)
from tests.unit.depth_operator.scaling.builders import WINDOW, Service, make_observation, make_signals, make_targets

NOW = 100_000.0

replica_counts = st.integers(0, 40)
any_floats = st.floats(allow_nan=True, allow_infinity=True)
rates = st.one_of(st.just(0.0), st.floats(0.001, 500.0))
ages = st.one_of(st.floats(0.0, 45.0), st.floats(0.0, 1e6))
missing_signals = st.builds(Missing, st.sampled_from(MissingReason), st.just("missing"))
wild_signals: st.SearchStrategy[Signal] = st.one_of(
    missing_signals, st.builds(Sample, any_floats, any_floats), st.builds(Sample, rates, ages)
)
all_signals = st.builds(Signals, *[wild_signals] * 7, warning=st.sampled_from(["", "partial response"]))


@st.composite
def targets_strategy(draw: st.DrawFn) -> Targets:
    least = draw(st.integers(0, 10))
    return Targets(
        least,
        least + draw(st.integers(0, 30)),
        draw(st.none() | st.integers(1, 100)),
        draw(st.none() | st.integers(1, 60_000)),
    )


@st.composite
def good_signals(draw: st.DrawFn, reporting: int) -> Signals:
    def fresh(value: float) -> Sample:
        return Sample(value, draw(st.floats(0.0, 45.0)))

    return Signals(
        *[fresh(draw(rates)) for _ in range(6)],
        reporting_pods=fresh(float(reporting)),
    )


observations = st.builds(
    Observation,
    replica_counts,
    replica_counts,
    replica_counts,
    replica_counts,
    st.booleans(),
    st.none() | replica_counts,
)


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """Empty, or that of an operator that has watched for a while."""
    if draw(st.booleans()):
        return Memory.initial()
    peaks = sorted(draw(st.sets(st.integers(0, 20), max_size=4)), reverse=True)
    ages_of_peaks = sorted((draw(st.floats(0.0, 2 * WINDOW)) for _ in peaks), reverse=True)
    raised = draw(st.none() | st.floats(0.0, 200.0))
    return Memory(
        capacity_images_per_busy_second=draw(st.none() | st.floats(0.01, 100.0)),
        observed_since=NOW - draw(st.floats(0.0, 2 * WINDOW)),
        last_good_at=NOW - draw(st.floats(0.0, 120.0)),
        recommendations=tuple(Recommendation(NOW - age, peak) for age, peak in zip(ages_of_peaks, peaks, strict=True)),
        latency_floor=draw(st.none() | st.integers(1, 20)),
        latency_raised_at=None if raised is None else NOW - raised,
    )


def held(observation: Observation, targets: Targets) -> int:
    running = max(observation.current_replicas, observation.published_replicas or 0)
    return min(targets.max_replicas, max(targets.min_replicas, running))


@given(targets_strategy(), observations, all_signals, memories())
def test_the_bounds_hold_and_every_decision_can_be_read(
    targets: Targets, observation: Observation, signals: Signals, memory: Memory
) -> None:
    decision = decide(targets, observation, signals, memory, NOW)

    assert targets.min_replicas <= decision.desired_replicas <= targets.max_replicas
    assert decision.message.startswith(f"{decision.desired_replicas} replica")
    assert "nan" not in decision.message or "which cannot be" in decision.message
    assert (decision.data_message == "") <= (decision.data_quality is DataQuality.GOOD)


@given(targets_strategy(), observations, all_signals, memories())
def test_deterministic_and_idempotent(
    targets: Targets, observation: Observation, signals: Signals, memory: Memory
) -> None:
    first = decide(targets, observation, signals, memory, NOW)
    published = replace(observation, published_replicas=first.desired_replicas)

    assert decide(targets, observation, signals, memory, NOW) == first
    second = decide(targets, published, signals, first.memory, NOW)
    assert second.desired_replicas == first.desired_replicas
    assert decide(targets, published, signals, second.memory, NOW) == second


@given(targets_strategy(), observations, all_signals, memories(), st.data())
def test_never_down_on_a_required_signal_that_cannot_be_used(
    targets: Targets, observation: Observation, signals: Signals, memory: Memory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["offered_rate", "finished_rate", "busy_rate", "queue_depth", "reporting_pods"]))
    fault = data.draw(
        st.one_of(
            missing_signals,
            st.builds(Sample, st.sampled_from([math.nan, math.inf, -math.inf, -1.0]), st.just(1.0)),
            st.builds(Sample, rates, st.floats(45.1, 1e9)),
            st.builds(Sample, rates, st.just(math.nan)),
        )
    )

    decision = decide(targets, observation, replace(signals, **{name: fault}), memory, NOW)

    assert decision.desired_replicas >= held(observation, targets)
    assert decision.data_quality is not DataQuality.GOOD


@given(targets_strategy(), observations, all_signals, memories())
def test_only_good_data_scale_down(
    targets: Targets, observation: Observation, signals: Signals, memory: Memory
) -> None:
    decision = decide(targets, observation, signals, memory, NOW)

    if decision.desired_replicas < held(observation, targets):
        assert decision.data_quality is DataQuality.GOOD
        assert not observation.rollout_in_progress
        assert memory.observed_since is not None
        assert NOW - memory.observed_since >= WINDOW


@given(targets_strategy(), st.integers(1, 20), st.integers(0, 20), st.integers(0, 20), st.data(), memories())
def test_terminating_pods_that_report_do_not_stand_in_for_ready_pods_that_are_silent(
    targets: Targets, reporting_ready: int, silent: int, terminating: int, data: st.DataObject, memory: Memory
) -> None:
    ready, reporting = reporting_ready + silent, reporting_ready + terminating
    signals = data.draw(good_signals(reporting))
    draining = make_observation(ready, terminating=terminating)

    assessment = assess(signals, targets, draining, DEFAULT_PARAMETERS)
    decision = decide(targets, draining, signals, memory, NOW)

    assert (assessment.unreported_factor > 1.0) == (silent > 0)
    if reporting < (ready + terminating) * DEFAULT_PARAMETERS.minimum_coverage:
        assert decision.desired_replicas >= held(draining, targets)


@given(targets_strategy(), observations, all_signals, memories(), st.integers(1, 20))
def test_more_terminating_pods_never_mean_fewer_replicas(
    targets: Targets, observation: Observation, signals: Signals, memory: Memory, more: int
) -> None:
    draining = replace(observation, terminating_replicas=observation.terminating_replicas + more)

    fewer, most = (decide(targets, each, signals, memory, NOW).desired_replicas for each in (observation, draining))

    assert fewer <= most


@given(
    targets_strategy(),
    observations,
    all_signals,
    memories(),
    st.sampled_from(["offered_rate", "queue_depth"]),
    st.data(),
)
def test_more_demand_never_means_fewer_replicas(
    targets: Targets, observation: Observation, signals: Signals, memory: Memory, name: str, data: st.DataObject
) -> None:
    less, more = sorted((data.draw(rates), data.draw(rates)))

    fewer, most = (
        decide(targets, observation, replace(signals, **{name: Sample(value, 1.0)}), memory, NOW).desired_replicas
        for value in (less, more)
    )

    assert fewer <= most


@given(targets_strategy(), st.integers(0, 20), st.data(), memories())
def test_pods_that_are_starting_are_not_asked_for_again(
    targets: Targets, ready: int, data: st.DataObject, memory: Memory
) -> None:
    """The same signals while the asked-for pods start give the same number, however long they take."""
    signals = data.draw(good_signals(ready))
    first = decide(targets, Observation(ready, ready, 0, 0, False, None), signals, memory, NOW)
    assume(first.desired_replicas > ready)
    starting = make_observation(
        first.desired_replicas,
        ready=ready,
        pending=first.desired_replicas - ready,
        published=first.desired_replicas,
    )

    memory, now = first.memory, NOW
    for _ in range(5):
        now += 100.0
        again = decide(targets, starting, signals, memory, now)
        memory = again.memory
        assert again.desired_replicas == first.desired_replicas


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(1, 12)), min_size=1, max_size=60))
def test_replicas_never_fall_below_what_the_window_needed(trace: list[tuple[float, int]]) -> None:
    """Over a trace of loads with a decision every 5 to 60 s, all pods reporting."""
    service = Service(targets=make_targets(max_replicas=30))
    needed: list[tuple[float, int]] = []
    for offered, steps in trace:
        decision = service.step(make_signals(offered, reporting=service.replicas), seconds=5.0 * steps)
        alone = decide(
            service.targets, Observation(0, 1, 0, 0, False, None), make_signals(offered), Memory.initial(), 0.0
        )
        needed.append((service.now, alone.desired_replicas))
        within = [replicas for at, replicas in needed if service.now - at <= WINDOW]

        assert decision.desired_replicas >= max(within)
        assert len(decision.memory.recommendations) <= 30


def test_the_signals_have_seven_names() -> None:
    """The strategies above count on it."""
    assert len(SIGNAL_NAMES) == 7 == len(fields(Signals)) - 1
