"""The control law: how many replicas a DepthService should have.

The largest of four terms wins: offered load, utilisation, queue backlog, latency. More replicas are asked for at once.
Fewer are asked for only if

* the metrics are good: there, fresh, and from at least half of the pods that are ready or being deleted,
* no rollout is running, and
* fewer were enough for a whole stabilisation window that was seen without a longer gap.

So no scale-down can follow from an absent, stale or impossible sample, nor from a restart of the operator. Sums over
pods are read twice where some ready pods do not report: as they are for more replicas, and scaled up to all ready pods
for fewer, as the HorizontalPodAutoscaler does with missing pods.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from depth_operator.scaling import wording
from depth_operator.scaling.assessment import Assessment, Measured, assess
from depth_operator.scaling.parameters import PolicyParameters
from depth_operator.scaling.terms import (
    Term,
    demand_terms,
    latency_term,
    measure_capacity,
    ratchet_latency,
    target_utilization,
)
from depth_operator.scaling.types import (
    DataQuality,
    Decision,
    LimitedBy,
    Memory,
    Observation,
    Reason,
    Recommendation,
    SignalReading,
    Signals,
    Targets,
)

DEFAULT_PARAMETERS = PolicyParameters()

_HOLD_REASONS = {
    DataQuality.PARTIAL: Reason.METRICS_PARTIAL,
    DataQuality.STALE: Reason.METRICS_STALE,
    DataQuality.MISSING: Reason.METRICS_MISSING,
    DataQuality.ERROR: Reason.METRICS_ERROR,
}


@dataclass(frozen=True, slots=True)
class _Choice:
    """A number of replicas and why; the sentence is read after the number."""

    replicas: int
    reason: Reason
    limited_by: LimitedBy
    sentence: str


@dataclass(frozen=True, slots=True)
class _Demand:
    """What the terms ask for: from the reporting pods alone, and with the silent ones assumed to be as loaded."""

    at_least: Term
    at_most: Term


def decide(
    targets: Targets,
    observation: Observation,
    signals: Signals,
    memory: Memory,
    now: float,
    parameters: PolicyParameters = DEFAULT_PARAMETERS,
) -> Decision:
    """Decide how many replicas to publish. Pure and deterministic.

    Args:
        targets: What the manifest asks for.
        observation: What Kubernetes knows about the workload.
        signals: What the metrics source knows.
        memory: The memory of the previous decision, `Memory.initial()` for the first.
        now: Seconds on a clock that does not jump; only differences count.
        parameters: The law's constants.

    Returns:
        The decision; its memory belongs to the next call. Calling again with it, the same signals and the same time
        gives the same number.
    """
    assessment = assess(signals, targets, observation, parameters)
    measured = assessment.measured
    capacity = measure_capacity(measured, memory, parameters)
    assessment = _require_capacity(assessment, capacity)
    ratchet = ratchet_latency(measured, observation, targets, memory, now, parameters)
    utilization = target_utilization(targets, parameters)

    def largest(factor: float) -> Term:
        terms = demand_terms(measured, factor, capacity, utilization, parameters)
        latency = latency_term(ratchet, measured, targets)
        return _largest(terms if latency is None else [*terms, latency])

    demand = _Demand(at_least=largest(1.0), at_most=largest(assessment.unreported_factor))
    memory = replace(
        _remember(memory, assessment, demand, targets, now, parameters),
        capacity_images_per_busy_second=capacity,
        latency_floor=ratchet.floor,
        latency_raised_at=ratchet.raised_at,
    )
    choice = _choose(targets, observation, assessment, demand, memory, now, parameters)
    return Decision(
        desired_replicas=choice.replicas,
        reason=choice.reason,
        message=f"{wording.replicas(choice.replicas)}: {choice.sentence}",
        limited_by=choice.limited_by,
        data_quality=assessment.quality,
        data_message=assessment.message,
        readings=_readings(measured, capacity, utilization, targets, parameters),
        memory=memory,
    )


def _require_capacity(assessment: Assessment, capacity: float | None) -> Assessment:
    """Demand that cannot be divided by a capacity says nothing about how few replicas are enough."""
    has_demand = bool(assessment.measured.offered_rate) or bool(assessment.measured.queue_depth)
    if assessment.quality is not DataQuality.GOOD or capacity is not None or not has_demand:
        return assessment
    message = "Images are offered but too few were finished to measure what one replica does; see the server's log."
    return replace(assessment, quality=DataQuality.PARTIAL, message=message)


def _largest(terms: list[Term]) -> Term:
    """The term that asks for most; the first one of equals, which is the offered load."""
    return max(terms, key=lambda term: term.replicas, default=Term(0, Reason.IDLE, "no demand is known"))


def _clamp(replicas: int, targets: Targets) -> int:
    return max(targets.min_replicas, min(targets.max_replicas, replicas))


def _remember(
    memory: Memory,
    assessment: Assessment,
    demand: _Demand,
    targets: Targets,
    now: float,
    parameters: PolicyParameters,
) -> Memory:
    """Add what is needed now to the stabilisation window.

    What bad data show is remembered as well, since it can only raise the maximum, but it does not count as having seen
    the time pass.
    """
    window = parameters.stabilization_window_seconds
    if assessment.quality is not DataQuality.GOOD:
        needed = _clamp(demand.at_least.replicas, targets)
        return replace(memory, recommendations=_push(memory.recommendations, needed, now, window))
    needed = _clamp(demand.at_most.replicas, targets)
    gap = min(parameters.maximum_gap_seconds, window)
    unbroken = memory.last_good_at is not None and 0 <= now - memory.last_good_at <= gap
    since = memory.observed_since if unbroken and memory.observed_since is not None else now
    return replace(
        memory,
        observed_since=since,
        last_good_at=now,
        recommendations=_push(memory.recommendations, needed, now, window),
    )


def _push(
    recommendations: tuple[Recommendation, ...], replicas: int, now: float, window: float
) -> tuple[Recommendation, ...]:
    """Sliding-window maximum: older entries that are not larger can never be the maximum again and are dropped."""
    kept = [item for item in recommendations if 0 <= now - item.at <= window and item.replicas > replicas]
    return (*kept, Recommendation(now, replicas))


def _choose(
    targets: Targets,
    observation: Observation,
    assessment: Assessment,
    demand: _Demand,
    memory: Memory,
    now: float,
    parameters: PolicyParameters,
) -> _Choice:
    held = _clamp(max(observation.current_replicas, observation.published_replicas or 0), targets)
    if _clamp(demand.at_least.replicas, targets) > held:
        return _follow(demand.at_least, targets)
    if assessment.quality is not DataQuality.GOOD:
        return _Choice(
            held, _HOLD_REASONS[assessment.quality], LimitedBy.MISSING_DATA, f"held. {assessment.message}".strip()
        )
    needed = _clamp(demand.at_most.replicas, targets)
    if needed == held:
        return _follow(demand.at_most, targets)
    if needed > held:
        sentence = f"held; {assessment.message.rstrip('.')}, {needed} are needed if the others are as loaded"
        return _Choice(held, demand.at_most.reason, LimitedBy.MISSING_DATA, sentence)
    if observation.rollout_in_progress:
        sentence = f"kept until the rollout is over; {needed} would do, {demand.at_most.sentence}"
        return _Choice(held, Reason.ROLLOUT_IN_PROGRESS, LimitedBy.ROLLOUT, sentence)
    return _scale_down(held, needed, demand, targets, memory, now, parameters)


def _scale_down(
    held: int,
    needed: int,
    demand: _Demand,
    targets: Targets,
    memory: Memory,
    now: float,
    parameters: PolicyParameters,
) -> _Choice:
    window = parameters.stabilization_window_seconds
    seen = 0.0 if memory.observed_since is None else now - memory.observed_since
    if seen < window:
        sentence = (
            f"kept until fewer are enough for {wording.seconds(window)}; {needed} would do, {demand.at_most.sentence}"
        )
        return _Choice(held, Reason.STABILIZING, LimitedBy.STABILIZATION_WINDOW, sentence)
    lowest = min(held, memory.recommendations[0].replicas)
    if lowest == needed:
        return _follow(demand.at_most, targets)
    sentence = (
        f"{needed} would do now, {demand.at_most.sentence}, "
        f"but {lowest} were needed within the last {wording.seconds(window)}"
    )
    return _Choice(lowest, Reason.STABILIZING, LimitedBy.STABILIZATION_WINDOW, sentence)


def _follow(term: Term, targets: Targets) -> _Choice:
    """Do what the term asks for, within the bounds."""
    if term.replicas > targets.max_replicas:
        limited, note = (
            LimitedBy.MAX_REPLICAS,
            f"; {term.replicas} would be needed, maxReplicas is {targets.max_replicas}",
        )
    elif term.replicas < targets.min_replicas:
        would_do = f"; {term.replicas} would do" if term.replicas else ""
        limited, note = LimitedBy.MIN_REPLICAS, f"{would_do}, minReplicas is {targets.min_replicas}"
    else:
        limited, note = LimitedBy.NOTHING, ""
    return _Choice(_clamp(term.replicas, targets), term.reason, limited, term.sentence + note)


def _readings(
    measured: Measured, capacity: float | None, utilization: float, targets: Targets, parameters: PolicyParameters
) -> tuple[SignalReading, ...]:
    unknown = "unknown"
    latency_target = targets.latency_p95_milliseconds
    per_replica = "" if capacity is None else f"{wording.number(capacity * utilization)} images/s per replica"
    drain = f"drained within {wording.seconds(parameters.queue_drain_seconds)}"
    offered, busy = measured.offered_rate, measured.utilization
    waiting, latency = measured.queue_depth, measured.latency_p95_seconds
    return (
        SignalReading(
            "OfferedLoad", unknown if offered is None else f"{wording.number(offered)} images/s", per_replica
        ),
        SignalReading(
            "GPUUtilization", unknown if busy is None else f"{busy * 100:.0f} %", f"{utilization * 100:.0f} %"
        ),
        SignalReading("QueueDepth", unknown if waiting is None else f"{wording.number(waiting)} images", drain),
        SignalReading(
            "LatencyP95",
            unknown if latency is None else wording.milliseconds(latency),
            "" if latency_target is None else f"{latency_target} ms",
        ),
    )
