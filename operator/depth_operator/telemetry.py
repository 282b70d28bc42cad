"""Logs and metrics of the operator's processes."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FIELDS: Final = ("key", "action", "reason", "child", "field_manager", "identity")
"""Extra fields of a log record that are written, in this order."""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, then the fields that say what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line: dict[str, str] = {
            "time": time,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: str(value) for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(level: str) -> None:
    """Send all logs to stderr as JSON lines; kopf's and urllib3's only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    quiet = logging.DEBUG if level == "DEBUG" else logging.WARNING
    for name in ("kopf", "urllib3", "aiohttp.access", "kubernetes"):
        logging.getLogger(name).setLevel(quiet)


class ReconcileMetrics:
    """Metrics of the reconcile loop and of the leadership, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._total = Counter(
            "depth_operator_reconcile_total",
            "Reconciles by result: success, retry (a child is not as it should be), error (state not read or written).",
            ["result"],
            registry=registry,
        )
        for result in ("success", "retry", "error"):
            self._total.labels(result)
        self._duration = Histogram(
            "depth_operator_reconcile_duration_seconds",
            "Time that one reconcile took.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=registry,
        )
        self.queue_depth = Gauge("depth_operator_queue_depth", "Keys that wait for a reconcile.", registry=registry)
        self.leader = Gauge("depth_operator_leader", "1 while this process holds the Lease.", registry=registry)

    def observe(self, result: str, seconds: float) -> None:
        """Count one reconcile."""
        self._total.labels(result).inc()
        self._duration.observe(seconds)
