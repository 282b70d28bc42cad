"""Numbers as people read them, in status, events and `kubectl describe`."""

from __future__ import annotations


def number(value: float) -> str:
    """About three significant digits without an exponent: `4.2`, `0.083`, `120`; what is not zero never reads as it."""
    if value >= 100:
        return f"{value:.0f}"
    if 0 < value < 0.001:
        return "<0.001"
    decimals = 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def milliseconds(seconds: float) -> str:
    """`180 ms`."""
    return f"{seconds * 1000:.0f} ms"


def replicas(count: int) -> str:
    """`1 replica`, `3 replicas`."""
    return f"{count} replica" if count == 1 else f"{count} replicas"


def seconds(value: float) -> str:
    """`300 s`."""
    return f"{number(value)} s"
