"""How far the signals can be trusted: the part of the law that keeps missing data from looking like zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depth_operator.scaling.types import (
    DataQuality,
    Missing,
    MissingReason,
    Observation,
    Sample,
    Signal,
    Signals,
    Targets,
)

if TYPE_CHECKING:
    from depth_operator.scaling.parameters import PolicyParameters


@dataclass(frozen=True, slots=True)
class Measured:
    """The signals that can be used, in the units of `Signals`; None where there is none."""

    offered_rate: float | None
    finished_rate: float | None
    busy_rate: float | None
    queue_depth: float | None
    latency_p95_seconds: float | None
    queue_wait_p95_seconds: float | None
    reporting_pods: float | None

    @property
    def utilization(self) -> float | None:
        """Busy share of a reporting pod, 0 to about 1."""
        if self.busy_rate is None or not self.reporting_pods:
            return None
        return self.busy_rate / self.reporting_pods


@dataclass(frozen=True, slots=True)
class Assessment:
    """The usable signals and the trust in them.

    Attributes:
        measured: What can be used.
        quality: Only `Good` allows a scale-down.
        message: What is wrong and what to do; empty if nothing is. May be set with `Good`: some pods do not report.
        unreported_factor: Ready and terminating pods per reporting pod, at least 1: what sums over pods must be
            multiplied by if the silent pods are assumed to be as loaded as the others.
    """

    measured: Measured
    quality: DataQuality
    message: str
    unreported_factor: float


def assess(signals: Signals, targets: Targets, observation: Observation, parameters: PolicyParameters) -> Assessment:
    """Sort the signals into usable and not, and judge the whole.

    Required are the signals that a warm server always exports: offered, finished and busy rate, queue depth, reporting
    pods; and, if there is a latency target and requests are offered, both percentiles. A percentile without requests
    is no fault.
    """
    checked: dict[str, float | Missing] = {
        "offered_rate": _usable(signals.offered_rate, "offered rate", parameters),
        "finished_rate": _usable(signals.finished_rate, "finished images rate", parameters),
        "busy_rate": _usable(signals.busy_rate, "busy time", parameters),
        "queue_depth": _usable(signals.queue_depth, "queue depth", parameters),
        "reporting_pods": _usable(signals.reporting_pods, "count of reporting pods", parameters),
        "latency_p95_seconds": _usable(signals.latency_p95_seconds, "p95 latency", parameters),
        "queue_wait_p95_seconds": _usable(signals.queue_wait_p95_seconds, "p95 queue wait", parameters),
    }
    measured = Measured(**{name: None if isinstance(value, Missing) else value for name, value in checked.items()})
    required = ["offered_rate", "finished_rate", "busy_rate", "queue_depth", "reporting_pods"]
    if targets.latency_p95_milliseconds is not None and measured.offered_rate:
        required += ["latency_p95_seconds", "queue_wait_p95_seconds"]
    missing = [value for name in required if isinstance(value := checked[name], Missing)]
    if missing:
        return Assessment(measured, *_judge_missing(missing, len(required), observation), unreported_factor=1.0)
    return _judge_coverage(measured, signals.warning, observation, parameters)


def _usable(signal: Signal, what: str, parameters: PolicyParameters) -> float | Missing:
    if isinstance(signal, Missing):
        return signal
    return _invalid(signal, what) or _stale(signal, what, parameters) or signal.value


def _invalid(sample: Sample, what: str) -> Missing | None:
    if math.isfinite(sample.value) and sample.value >= 0 and math.isfinite(sample.age_seconds):
        return None
    return Missing(
        MissingReason.INVALID,
        f"The {what} is {sample.value:g}, {sample.age_seconds:g} s old, which cannot be; "
        "check the series in Prometheus.",
    )


def _stale(sample: Sample, what: str, parameters: PolicyParameters) -> Missing | None:
    if sample.age_seconds <= parameters.stale_after_seconds:
        return None
    return Missing(
        MissingReason.STALE,
        f"The youngest sample of the {what} is {sample.age_seconds:.0f} s old, "
        f"more than {parameters.stale_after_seconds:.0f} s; check that Prometheus scrapes the pods.",
    )


def _judge_missing(missing: list[Missing], required: int, observation: Observation) -> tuple[DataQuality, str]:
    reasons = {signal.reason for signal in missing}
    if len(missing) < required:
        return DataQuality.PARTIAL, missing[0].message
    if MissingReason.UNAVAILABLE in reasons:
        return DataQuality.ERROR, _message_of(MissingReason.UNAVAILABLE, missing)
    if MissingReason.STALE in reasons:
        return DataQuality.STALE, _message_of(MissingReason.STALE, missing)
    if observation.ready_replicas == 0:
        return DataQuality.MISSING, "No pod is ready yet, so there are no metrics."
    return DataQuality.MISSING, missing[0].message


def _message_of(reason: MissingReason, missing: list[Missing]) -> str:
    return next(signal.message for signal in missing if signal.reason is reason)


def _judge_coverage(
    measured: Measured, warning: str, observation: Observation, parameters: PolicyParameters
) -> Assessment:
    """Compare how many pods report with how many could.

    A pod that is being deleted reports until it ends, and the count does not say who reports. So it is expected to
    report like the ready ones: otherwise it would stand in for a ready pod that is silent.
    """
    reporting = measured.reporting_pods or 0.0
    ready = observation.ready_replicas
    if ready == 0 or reporting == 0:
        message = "No pod is ready, so none can be trusted to report the load."
        if ready:
            message = f"None of {ready} ready pods reports metrics; check that Prometheus scrapes them."
        return Assessment(measured, DataQuality.PARTIAL, message, unreported_factor=1.0)
    expected = ready + observation.terminating_replicas
    factor = max(1.0, expected / reporting)
    which = "ready or terminating pods" if observation.terminating_replicas else "ready pods"
    message = "" if factor == 1.0 else f"{reporting:.0f} of {expected} {which} report metrics."
    if reporting / expected < parameters.minimum_coverage:
        message += (
            f" At least {parameters.minimum_coverage * 100:.0f} % are needed; check that Prometheus scrapes every pod."
        )
        return Assessment(measured, DataQuality.PARTIAL, message, unreported_factor=factor)
    if warning:
        return Assessment(measured, DataQuality.PARTIAL, f"Prometheus warns: {warning}", unreported_factor=factor)
    return Assessment(measured, DataQuality.GOOD, message, unreported_factor=factor)
