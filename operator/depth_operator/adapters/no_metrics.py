"""Stands in for Prometheus where none is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from depth_operator.scaling.types import MissingReason, Signals

if TYPE_CHECKING:
    from depth_operator.api.naming import Key

MESSAGE: Final = (
    "no Prometheus is configured, so the number of replicas is held;"
    " set DEPTH_OPERATOR_PROMETHEUS_ADDRESS (chart value prometheus.address)"
)


class NoMetrics:
    """`depth_operator.ports.MetricsSource` without a source."""

    async def signals(self, key: Key) -> Signals:  # noqa: ARG002 - the same answer for all
        """Nothing, with the remedy."""
        return Signals.unavailable(MissingReason.NO_SERIES, MESSAGE)

    async def close(self) -> None:
        """Nothing to close."""
