"""What the server says about itself: liveness, readiness and the reason for either; no I/O.

Starting ──► WarmingUp ◄─► Ready ──► Draining
    └───────────┴────────────┴──────────┴────► Failed
"""

import threading
from dataclasses import dataclass
from enum import StrEnum


class HealthState(StrEnum):
    """States of the server."""

    STARTING = "Starting"
    """The process runs and answers probes; weights are being loaded."""
    WARMING_UP = "WarmingUp"
    """Weights are verified and loaded, the first forward pass runs; or engine processes have died and start again."""
    READY = "Ready"
    """Requests are served."""
    DRAINING = "Draining"
    """The process was told to stop; what was accepted is finished."""
    FAILED = "Failed"
    """The engine is dead; only a restart helps."""


_SUCCESSORS: dict[HealthState, frozenset[HealthState]] = {
    HealthState.STARTING: frozenset({HealthState.WARMING_UP, HealthState.DRAINING, HealthState.FAILED}),
    HealthState.WARMING_UP: frozenset({HealthState.READY, HealthState.DRAINING, HealthState.FAILED}),
    HealthState.READY: frozenset({HealthState.WARMING_UP, HealthState.DRAINING, HealthState.FAILED}),
    HealthState.DRAINING: frozenset({HealthState.FAILED}),
    HealthState.FAILED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class HealthReport:
    """A state and, in words, why."""

    state: HealthState
    detail: str

    @property
    def is_live(self) -> bool:
        """Whether the process should be left alone."""
        return self.state is not HealthState.FAILED

    @property
    def is_ready(self) -> bool:
        """Whether new requests should be sent here."""
        return self.state is HealthState.READY


class Health:
    """Holds the state; told by the event loop and by the engine's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._report = HealthReport(HealthState.STARTING, "the weights are being loaded")
        self._was_ready = False

    @property
    def report(self) -> HealthReport:
        """The current state."""
        return self._report

    @property
    def was_ready(self) -> bool:
        """Whether the warm-up was ever finished."""
        return self._was_ready

    @property
    def accepts_requests(self) -> bool:
        """Whether a request that arrives is served: also while draining, until all have learnt of it."""
        return self._was_ready and self._report.state in (HealthState.READY, HealthState.DRAINING)

    def advance(self, state: HealthState, detail: str) -> bool:
        """Go to a state if it may follow the current one.

        A drain that overtakes the start, and a failure during a drain, make some calls come too late; those are
        refused, not errors.

        Returns:
            Whether the state changed.
        """
        with self._lock:
            if state not in _SUCCESSORS[self._report.state]:
                return False
            self._report = HealthReport(state, detail)
            self._was_ready = self._was_ready or state is HealthState.READY
            return True

    def explain(self, detail: str) -> None:
        """Say in other words why the server is starting or warming up; a state that was left stays as it is."""
        with self._lock:
            if self._report.state in (HealthState.STARTING, HealthState.WARMING_UP):
                self._report = HealthReport(self._report.state, detail)
