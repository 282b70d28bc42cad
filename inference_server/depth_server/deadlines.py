"""The deadline that a client sets for its request; pure.

`X-Request-Timeout-Ms: 250` says that the client waits 250 ms, counted from the arrival of the request's head. What
cannot be answered by then is not begun: 504, before the image is given to the model. There is no standard header for
it; this one is a duration, because clocks differ, and in milliseconds, as gateways' own headers are.
"""

from collections.abc import Mapping
from typing import Final

from depth_server.errors import InvalidDeadlineError

TIMEOUT_HEADER: Final = "x-request-timeout-ms"
"""Name of the header."""

MAX_TIMEOUT_MILLISECONDS: Final = 3_600_000
"""Longest value accepted; the server's own limit is shorter and applies as well."""


def request_deadline(headers: Mapping[str, str], now: float, longest: float) -> float:
    """Compute when the answer must be there.

    Args:
        headers: Of the request; names in lower case.
        now: Monotonic seconds.
        longest: Seconds that the server works on a request at most.

    Returns:
        Monotonic seconds.

    Raises:
        InvalidDeadlineError: The header is no whole number of milliseconds from 1 to an hour.
    """
    value = headers.get(TIMEOUT_HEADER)
    if value is None:
        return now + longest
    text = value.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_TIMEOUT_MILLISECONDS))):
        milliseconds = 0
    else:
        milliseconds = int(text)
    if not 1 <= milliseconds <= MAX_TIMEOUT_MILLISECONDS:
        message = f"X-Request-Timeout-Ms must be a whole number from 1 to {MAX_TIMEOUT_MILLISECONDS}"
        raise InvalidDeadlineError(message)
    return now + min(milliseconds / 1000, longest)
