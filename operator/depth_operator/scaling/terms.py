"""The terms of the control law: each says how many replicas one view of the demand asks for.

All but the latency term are absolute (a demand divided by what one replica does), so pods that are still starting are
counted once: asking again while they start gives the same number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depth_operator.scaling.parameters import LARGEST_DEMAND_REPLICAS, PLAUSIBLE_CAPACITY, PolicyParameters
from depth_operator.scaling.types import Memory, Observation, Reason, Targets
from depth_operator.scaling.wording import milliseconds, number

if TYPE_CHECKING:
    from depth_operator.scaling.assessment import Measured


@dataclass(frozen=True, slots=True)
class Term:
    """One view of the demand.

    Attributes:
        replicas: What it asks for; not yet bounded.
        reason: Which view it is.
        sentence: The numbers behind it, to be read after "3 replicas: ".
    """

    replicas: int
    reason: Reason
    sentence: str


@dataclass(frozen=True, slots=True)
class LatencyRatchet:
    """What the latency term asks for and when it last asked for more."""

    floor: int | None
    raised_at: float | None


def measure_capacity(measured: Measured, memory: Memory, parameters: PolicyParameters) -> float | None:
    """Images per second that one replica does while it is busy; the remembered value where none can be measured now."""
    finished, busy = measured.finished_rate, measured.busy_rate
    if finished is None or busy is None or busy < parameters.minimum_busy_rate:
        return memory.capacity_images_per_busy_second
    smallest, largest = PLAUSIBLE_CAPACITY
    capacity = finished / busy
    return capacity if smallest <= capacity <= largest else memory.capacity_images_per_busy_second


def target_utilization(targets: Targets, parameters: PolicyParameters) -> float:
    """Busy share to aim at, as a fraction."""
    return (targets.gpu_utilization_percent or parameters.default_utilization_percent) / 100


def demand_terms(
    measured: Measured, factor: float, capacity: float | None, utilization: float, parameters: PolicyParameters
) -> list[Term]:
    """The terms that the usable signals allow.

    Args:
        measured: The usable signals.
        factor: What sums over pods are multiplied by, see `Assessment.unreported_factor`.
        capacity: Images per busy second of one replica, None if never measured.
        utilization: Busy share to aim at.
        parameters: The law's constants.
    """
    offered = None if measured.offered_rate is None else measured.offered_rate * factor
    waiting = (measured.queue_depth or 0.0) * factor
    terms = []
    if offered is not None and (capacity is not None or offered == 0):
        terms.append(_offered_load(offered, capacity, utilization, parameters))
    if measured.busy_rate is not None:
        # At most the offered load where that is known, but for requests that outlast the window: those are counted as
        # offered only when they end, and keep a replica busy until then.
        terms.append(_utilization(measured.busy_rate * factor, measured.utilization, utilization, parameters))
    if not terms and offered:
        terms.append(Term(1, Reason.OFFERED_LOAD, f"{number(offered)} images/s offered, capacity not measured yet"))
    if waiting > 0:
        terms.append(_queue_backlog(waiting, offered or 0.0, capacity, parameters))
    return terms


def _offered_load(offered: float, capacity: float | None, utilization: float, parameters: PolicyParameters) -> Term:
    if offered == 0 or capacity is None:
        return Term(0, Reason.IDLE, "no images offered")
    per_replica = capacity * utilization
    return Term(
        _whole(offered / per_replica, parameters),
        Reason.OFFERED_LOAD,
        f"{number(offered)} images/s offered, one replica does {number(per_replica)} at {utilization * 100:.0f} % busy",
    )


def _utilization(busy: float, measured: float | None, utilization: float, parameters: PolicyParameters) -> Term:
    shown = f"{measured * 100:.0f} % busy" if measured is not None else f"{number(busy)} busy seconds per second"
    return Term(
        _whole(busy / utilization, parameters),
        Reason.UTILIZATION if busy > 0 else Reason.IDLE,
        f"{shown} against a target of {utilization * 100:.0f} %",
    )


def _queue_backlog(waiting: float, offered: float, capacity: float | None, parameters: PolicyParameters) -> Term:
    if capacity is None:
        return Term(1, Reason.QUEUE_BACKLOG, f"{number(waiting)} images wait, capacity not measured yet")
    return Term(
        _whole((offered + waiting / parameters.queue_drain_seconds) / capacity, parameters),
        Reason.QUEUE_BACKLOG,
        f"{number(waiting)} images wait and {number(offered)} images/s arrive, one replica does {number(capacity)}; "
        f"the queue is to be empty in {number(parameters.queue_drain_seconds)} s",
    )


def _whole(replicas: float, parameters: PolicyParameters) -> int:
    """Round up, forgiving a little; any demand above zero needs one."""
    if replicas <= 0:
        return 0
    return max(1, math.ceil(min(replicas, LARGEST_DEMAND_REPLICAS) - parameters.rounding_slack_replicas))


def ratchet_latency(
    measured: Measured,
    observation: Observation,
    targets: Targets,
    memory: Memory,
    now: float,
    parameters: PolicyParameters,
) -> LatencyRatchet:
    """One replica more if the p95 is above its target and requests wait for the engine.

    Latency says that something is wrong, not how much, so it moves one step, waits until pods that start are ready, and
    waits for a cool-down before the next. The step is kept while the latency stays high.
    """
    released = LatencyRatchet(None, memory.latency_raised_at)
    target = targets.latency_p95_milliseconds
    if target is None or measured.latency_p95_seconds is None or observation.ready_replicas == 0:
        return released
    if measured.latency_p95_seconds * 1000 <= target or not _requests_queue(measured, target / 1000, parameters):
        return released
    raised_at = memory.latency_raised_at
    cooling = raised_at is not None and 0 <= now - raised_at < parameters.latency_cooldown_seconds
    if cooling or observation.pending_replicas > 0:
        return LatencyRatchet(memory.latency_floor, raised_at)
    return LatencyRatchet(min(observation.ready_replicas + 1, targets.max_replicas), now)


def latency_term(ratchet: LatencyRatchet, measured: Measured, targets: Targets) -> Term | None:
    """The ratchet as a term, None while it asks for nothing."""
    if ratchet.floor is None or measured.latency_p95_seconds is None or targets.latency_p95_milliseconds is None:
        return None
    return Term(
        ratchet.floor,
        Reason.LATENCY,
        f"p95 latency {milliseconds(measured.latency_p95_seconds)} is above {targets.latency_p95_milliseconds} ms "
        "and requests wait for the engine",
    )


def _requests_queue(measured: Measured, target_seconds: float, parameters: PolicyParameters) -> bool:
    wait, utilization = measured.queue_wait_p95_seconds, measured.utilization
    waits = wait is not None and wait >= parameters.queueing_wait_share * target_seconds
    return waits or (utilization is not None and utilization >= parameters.saturated_utilization)
