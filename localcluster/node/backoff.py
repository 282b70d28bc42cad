"""When a container that ended may start again."""

from __future__ import annotations

from dataclasses import dataclass

from localcluster.settings import BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS, BACKOFF_RESET_SECONDS


@dataclass
class RestartBackoff:
    """Delays of 0, base, 2·base, 4·base … seconds up to a cap.

    The first restart is immediate and a long run starts the series again, as in the kubelet
    (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy).
    """

    base: float = BACKOFF_BASE_SECONDS
    cap: float = BACKOFF_CAP_SECONDS
    reset_after: float = BACKOFF_RESET_SECONDS
    _delay: float = 0.0

    def next_delay(self, ran_seconds: float) -> float:
        """Return the seconds to wait before the next start.

        Args:
            ran_seconds: How long the container ran before it ended.
        """
        if ran_seconds >= self.reset_after:
            self._delay = 0.0
        delay = self._delay
        self._delay = min(self.cap, delay * 2 if delay else self.base)
        return delay


def restarts(policy: str, exit_code: int) -> bool:
    """Say whether a container with this exit code starts again under a pod's restart policy."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)
