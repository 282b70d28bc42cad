"""Numbers as people read them, in status, events and `kubectl describe`."""

from __future__ import annotations


def number(value: float) -> str:
    """Three significant digits without an exponent: `4.2`, `0.35`, `120`."""
    if value >= 100:
        return f"{value:.0f}"
    text = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return text.rstrip("0").rstrip(".")


def milliseconds(seconds: float) -> str:
    """`180 ms`."""
    return f"{seconds * 1000:.0f} ms"


def replicas(count: int) -> str:
    """`1 replica`, `3 replicas`."""
    return f"{count} replica" if count == 1 else f"{count} replicas"


def seconds(value: float) -> str:
    """`300 s`."""
    return f"{number(value)} s"
