"""Limits how often one client may ask: a token bucket each, of a bounded number of clients; no I/O."""

from collections import OrderedDict
from collections.abc import Callable


class RateLimiter:
    """Token buckets by client; used by the event loop only.

    Args:
        rate: Requests per second that a client may make for ever.
        burst: Requests that a client may make at once after a pause, at least 1.
        max_clients: Clients that are remembered. Beyond them the one that asked longest ago is forgotten, which is to
            its advantage.
        clock: Monotonic seconds.
    """

    def __init__(self, rate: float, burst: int, max_clients: int, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._max_clients = max_clients
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> float:
        """Take one token.

        Returns:
            0 if there was one, else the seconds until there is; then nothing is taken.
        """
        now = self._clock()
        tokens, then = self._buckets.get(client, (float(self._burst), now))
        tokens = min(tokens + (now - then) * self._rate, self._burst)
        # A sum of many small refills falls short of 1 by rounding; nobody should wait for that.
        allowed = tokens >= 1 - 1e-9
        self._buckets[client] = (max(tokens - 1, 0.0) if allowed else tokens, now)
        self._buckets.move_to_end(client)
        if len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._rate
