"""What goes into a scaling decision and what comes out of it.

A signal is never a bare number: it is a `Sample` with its age, or a `Missing` that says why there is none. Missing data
is never zero, and that is easiest to keep where zero cannot stand for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum


class DataQuality(StrEnum):
    """How far the metrics behind a decision can be trusted.

    Only `Good` allows a scale-down. The values are the reasons that a condition `MetricsAvailable` can be built from.
    """

    GOOD = "Good"
    """Every signal that the law needs is there, fresh, and from enough of the pods that serve or end."""
    PARTIAL = "Partial"
    """Some signals or some pods are missing; what is there may raise the replicas."""
    STALE = "Stale"
    """There are samples, but too old to describe the present."""
    MISSING = "Missing"
    """The metrics source answered and has nothing (usable) for this service."""
    ERROR = "Error"
    """The metrics source did not answer, or answered with an error."""


class MissingReason(StrEnum):
    """Why a signal has no value."""

    NO_SERIES = "NoSeries"
    """The source answered and knows no such series: not scraped, not yet warm, or a wrong label."""
    NO_OBSERVATIONS = "NoObservations"
    """The series is there but nothing was observed in the window, such as a latency without any request."""
    INVALID = "Invalid"
    """The value is NaN, infinite or negative."""
    STALE = "Stale"
    """The youngest sample is too old."""
    UNAVAILABLE = "Unavailable"
    """The source could not be asked, or answered with an error."""


class LimitedBy(StrEnum):
    """What kept the published replicas from what the terms of the law asked for."""

    NOTHING = ""
    MIN_REPLICAS = "MinReplicas"
    MAX_REPLICAS = "MaxReplicas"
    MISSING_DATA = "MissingData"
    ROLLOUT = "Rollout"
    STABILIZATION_WINDOW = "StabilizationWindow"


class Reason(StrEnum):
    """Which term won, or why the replicas are held. A stable API: they appear in status and in metrics."""

    IDLE = "Idle"
    """Nothing is offered and nothing waits."""
    OFFERED_LOAD = "OfferedLoad"
    """The offered rate against the measured capacity of one replica."""
    QUEUE_BACKLOG = "QueueBacklog"
    """Images that wait and have to be worked off within a bounded time."""
    UTILIZATION = "Utilization"
    """Busy time against its target; decides where the offered load or the capacity is unknown."""
    LATENCY = "Latency"
    """The 95th percentile is above its target and requests wait for the engine."""
    STABILIZING = "Stabilizing"
    """Fewer replicas would do now, but not for a whole stabilisation window yet."""
    ROLLOUT_IN_PROGRESS = "RolloutInProgress"
    """Fewer replicas would do, but a rollout is running."""
    METRICS_PARTIAL = "MetricsPartial"
    METRICS_STALE = "MetricsStale"
    METRICS_MISSING = "MetricsMissing"
    METRICS_ERROR = "PrometheusError"


@dataclass(frozen=True, slots=True)
class Sample:
    """A measured value.

    Attributes:
        value: In the unit of the signal, see `Signals`.
        age_seconds: Time since the youngest scrape that the value rests on.
    """

    value: float
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Missing:
    """A signal that has no value, with the cause and the remedy in `message`."""

    reason: MissingReason
    message: str


Signal = Sample | Missing


@dataclass(frozen=True, slots=True)
class Signals:
    """What the metrics source knows about one DepthService. Sums run over its pods.

    Attributes:
        offered_rate: Requests per second that clients asked for, rejected and failed ones included, invalid ones not.
            One request is one image.
        finished_rate: Images per second that the engines finished.
        busy_rate: Busy seconds per second: 1.0 is one replica that is busy all the time. Of the GPU where the server
            measures it, else of the worker.
        queue_depth: Images that wait for an engine now.
        latency_p95_seconds: 95th percentile, end to end, of successful requests.
        queue_wait_p95_seconds: 95th percentile of the wait for the engine.
        reporting_pods: Pods with a fresh sample and a rate over the window.
        warning: The source's own doubt about its answer (a partial response); empty if it has none.
    """

    offered_rate: Signal
    finished_rate: Signal
    busy_rate: Signal
    queue_depth: Signal
    latency_p95_seconds: Signal
    queue_wait_p95_seconds: Signal
    reporting_pods: Signal
    warning: str = ""

    @classmethod
    def unavailable(cls, reason: MissingReason, message: str) -> Signals:
        """All signals missing for one cause, such as a metrics source that cannot be reached."""
        missing = Missing(reason, message)
        return cls(missing, missing, missing, missing, missing, missing, missing)


SIGNAL_NAMES: tuple[str, ...] = tuple(field.name for field in fields(Signals) if field.name != "warning")
"""The names of the signals, as fields of `Signals` and as the label that tells the results of one query apart."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the manifest asks for, `spec.autoscaling`.

    Attributes:
        min_replicas: Lower bound, at least 0.
        max_replicas: Upper bound, at least `min_replicas`.
        gpu_utilization_percent: Busy share of a replica to aim at, 1 to 100; None for the law's own default.
        latency_p95_milliseconds: Upper bound of the 95th percentile; None if latency does not matter.
    """

    min_replicas: int
    max_replicas: int
    gpu_utilization_percent: int | None = None
    latency_p95_milliseconds: int | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What Kubernetes knows about the workload.

    Attributes:
        current_replicas: `spec.replicas` of the Deployment.
        ready_replicas: Pods that are ready.
        pending_replicas: Pods that are starting and have not passed their deadline.
        terminating_replicas: Pods that are being deleted; they are scraped, and count as reporting, until they end.
        rollout_in_progress: Whether pods of two revisions exist, or a new revision is not yet complete.
        published_replicas: What was last published in `status.autoscaling.desiredReplicas`; None before the first time.
    """

    current_replicas: int
    ready_replicas: int
    pending_replicas: int
    terminating_replicas: int
    rollout_in_progress: bool
    published_replicas: int | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """How many replicas were needed at a time (the seconds of `decide`'s `now`)."""

    at: float
    replicas: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What a decision needs to know about the ones before it. Kept by the caller, one per DepthService.

    An empty memory is safe: after a restart nothing is scaled down until a whole stabilisation window has been seen.

    Attributes:
        capacity_images_per_busy_second: The last good measurement of what one replica does while it is busy.
        observed_since: Start of the unbroken time for which good data have been seen.
        last_good_at: The last decision that rested on good data.
        recommendations: The maxima of the stabilisation window, oldest and largest first; strictly decreasing, so their
            number is bounded by `max_replicas`.
        latency_floor: Replicas that the latency term last asked for, while it still applies.
        latency_raised_at: When it did.
    """

    capacity_images_per_busy_second: float | None = None
    observed_since: float | None = None
    last_good_at: float | None = None
    recommendations: tuple[Recommendation, ...] = ()
    latency_floor: int | None = None
    latency_raised_at: float | None = None

    @classmethod
    def initial(cls) -> Memory:
        """The memory of an operator that has just started."""
        return cls()


@dataclass(frozen=True, slots=True)
class SignalReading:
    """One line of `status.autoscaling.signals`, for people: the unit is part of the strings.

    Attributes:
        type: `OfferedLoad`, `GPUUtilization`, `QueueDepth` or `LatencyP95`.
        current: The measured value, `unknown` if there is none.
        target: What the law steers to; empty if the signal has no target.
    """

    type: str
    current: str
    target: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer of the law.

    Attributes:
        desired_replicas: What to publish; within the bounds of `Targets`.
        reason: A `Reason`.
        message: One sentence for people.
        limited_by: A `LimitedBy`; empty if nothing stood in the way.
        data_quality: Trust in the metrics.
        data_message: What is wrong with the metrics and what to do about it; empty when nothing is.
        readings: The signals, for the status.
        memory: To be passed to the next decision.
    """

    desired_replicas: int
    reason: str
    message: str
    limited_by: str
    data_quality: DataQuality
    data_message: str
    readings: tuple[SignalReading, ...]
    memory: Memory
