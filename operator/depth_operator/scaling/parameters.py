"""The constants of the control law, each with its reason. Defaults: a demonstration or a test shortens them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

DEFAULT_STALE_AFTER_SECONDS = 45.0
"""Three scrapes at the usual 15 s."""


@dataclass(frozen=True, slots=True)
class PolicyParameters:
    """How `decide` weighs what it sees.

    Raises:
        ValueError: If a parameter is not a positive finite number, or a share or percentage is out of its range.
    """

    stabilization_window_seconds: float = 300.0
    """Replicas fall only to the largest number needed within this time. 300 s is what the HorizontalPodAutoscaler takes
    by default: longer than the start of a pod with its weights, so that a pause in the load costs no cold start."""

    default_utilization_percent: int = 70
    """Busy share to aim at where the manifest names none. The rest is room for arrivals that are not evenly spaced: a
    single server at 70 % makes a request wait for about one service time on average (M/D/1)."""

    queue_drain_seconds: float = 30.0
    """A backlog is to be worked off within this time, on top of what arrives. Shorter than a client's usual patience,
    longer than a burst that one replica absorbs by itself."""

    latency_cooldown_seconds: float = 90.0
    """Least time between two steps of the latency term: a pod has to start and the percentile's window has to move on
    before the effect of one more replica can be seen."""

    queueing_wait_share: float = 0.3
    """Share of the latency target that requests wait for the engine from which on waiting, not work, explains the
    latency. Below it more replicas would not help: large images or slow clients are the cause."""

    saturated_utilization: float = 0.85
    """Busy share from which on queueing must be assumed, whatever the measured wait says."""

    minimum_coverage: float = 0.5
    """Share of the ready and terminating pods that must report before fewer replicas are believed to be enough."""

    stale_after_seconds: float = DEFAULT_STALE_AFTER_SECONDS
    """Age from which on a sample says nothing about the present."""

    maximum_gap_seconds: float = 60.0
    """Time without good data after which the stabilisation window starts anew: what was needed in between is unknown.
    Never longer than the window itself."""

    minimum_busy_rate: float = 0.02
    """Busy replicas below which images per busy second is too noisy a ratio; the last good capacity is used."""

    rounding_slack_replicas: float = 0.1
    """How far a need may reach above a whole number before another replica is added. `rate()` extrapolates to the edges
    of its window, so a steady load wavers by some percent; the HorizontalPodAutoscaler tolerates 10 % for it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field.name} must be a positive number, not {value}")
        if self.default_utilization_percent > 100:
            raise ValueError(f"default_utilization_percent must be at most 100, not {self.default_utilization_percent}")
        for name in ("queueing_wait_share", "saturated_utilization", "minimum_coverage"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is a share and must be at most 1, not {getattr(self, name)}")


PLAUSIBLE_CAPACITY = (1e-6, 1e9)
"""Images per busy second that a measurement may show; anything outside is a counter gone wrong, not a capacity."""

LARGEST_DEMAND_REPLICAS = 1_000_000
"""Demands are cut here before they are rounded, so that an absurd sample cannot overflow; the bounds cut much lower."""
