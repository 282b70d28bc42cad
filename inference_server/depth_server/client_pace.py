"""How fast a client must be: deadlines of one connection; pure, the time is passed in.

A head must be complete within an absolute time. A body, and the client's taking of its answer, must have a least rate
over every period; so no client holds a connection by sending, or reading, one byte now and then. Time in which the
server itself is what a client waits for does not count.
"""

from dataclasses import dataclass
from enum import StrEnum


class SlowPhase(StrEnum):
    """What a client was too slow at; values of the label `phase` of `depth_server_slow_clients_total`."""

    HEAD = "head"
    """Sending a request's line and headers."""
    BODY = "body"
    """Sending a request's body."""
    LEFTOVER = "leftover"
    """Sending the rest of a body that was already answered."""
    ANSWER = "answer"
    """Taking its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceLimits:
    """How slow a client may be.

    Attributes:
        head_seconds: From the first byte, or the connection, to the end of the headers.
        body_seconds: Period over which the rate of a body is measured.
        answer_seconds: Period over which the rate of taking an answer is measured.
        min_bytes_per_second: Least rate in each such period.
    """

    head_seconds: float
    body_seconds: float
    answer_seconds: float
    min_bytes_per_second: int


class ClientPace:
    """Deadlines of one connection.

    Args:
        limits: How slow it may be.
        now: When it was opened; a head is awaited from then on.
    """

    def __init__(self, limits: PaceLimits, now: float) -> None:
        self._limits = limits
        self._phase: SlowPhase | None = SlowPhase.HEAD
        self._phase_deadline = now + limits.head_seconds
        self._received = 0
        self._answer_deadline: float | None = None
        self._untaken = 0

    @property
    def phase(self) -> SlowPhase | None:
        """What the client is sending; None while it is the server's turn or nothing happens."""
        return self._phase

    @property
    def deadline(self) -> float | None:
        """When to call `check` next; None if nothing is awaited."""
        deadlines = [self._phase_deadline] if self._phase is not None else []
        if self._answer_deadline is not None:
            deadlines.append(self._answer_deadline)
        return min(deadlines, default=None)

    def begin_head(self, now: float) -> None:
        """Note the first byte of a request."""
        self._phase, self._phase_deadline = SlowPhase.HEAD, now + self._limits.head_seconds

    def begin_body(self, now: float) -> None:
        """Note the end of a head that a body follows."""
        self._phase, self._phase_deadline, self._received = SlowPhase.BODY, now + self._limits.body_seconds, 0

    def begin_leftover(self, now: float) -> None:
        """Note an answer to a request whose body is not complete: there is one more period for it, at any rate."""
        self._phase, self._phase_deadline = SlowPhase.LEFTOVER, now + self._limits.body_seconds

    def receive(self, count: int) -> None:
        """Note bytes of a body."""
        self._received += count

    def finish_request(self) -> None:
        """Note a complete request, or the end of everything that was asked."""
        self._phase = None

    def begin_answer(self, now: float, untaken: int) -> None:
        """Note that something was written.

        Args:
            now: The time.
            untaken: Bytes that the client has not taken yet.
        """
        self._untaken = untaken
        self._answer_deadline = now + self._limits.answer_seconds if untaken else None

    def check(self, now: float, *, server_is_waiting: bool, untaken: int) -> SlowPhase | None:
        """Judge a client at a deadline, and give it another period if it was fast enough.

        Args:
            now: The time.
            server_is_waiting: Whether it is up to the client to send.
            untaken: Bytes of an answer that the client has not taken yet.

        Returns:
            What it was too slow at.
        """
        limits = self._limits
        if self._answer_deadline is not None and now >= self._answer_deadline:
            if untaken and self._untaken - untaken < limits.min_bytes_per_second * limits.answer_seconds:
                return SlowPhase.ANSWER
            self.begin_answer(now, untaken)
        if self._phase is None or now < self._phase_deadline:
            return None
        if self._phase is SlowPhase.BODY:
            enough = self._received >= limits.min_bytes_per_second * limits.body_seconds
            if enough or not server_is_waiting:
                self.begin_body(now)
                return None
        return self._phase
