"""Signals from the HTTP API of Prometheus, or of anything that speaks it.

A metrics source that is down, slow, empty or talking nonsense is data for the decision, not an exception: every fault
becomes a `Missing` with the address and the remedy. What comes back is not trusted: time and bytes are limited.

API: https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from typing import Protocol, Self
from urllib.parse import urlsplit

import aiohttp

from depth_operator.scaling.parameters import DEFAULT_STALE_AFTER_SECONDS
from depth_operator.scaling.queries import SAMPLE_AGE, SIGNAL_LABEL, Scope, signals_query
from depth_operator.scaling.types import SIGNAL_NAMES, Missing, MissingReason, Sample, Signal, Signals

DEFAULT_MAX_RESPONSE_BYTES = 64 * 1024
"""The answer holds at most nine short results, about 1 KiB. More is not an answer to our query."""

DEFAULT_TIMEOUT_SECONDS = 3.0
"""A decision is due every few seconds; an answer that takes longer is worth less than the next one."""

DEFAULT_WINDOW_SECONDS = 60.0
"""Four scrapes at the usual 15 s."""

_SHOWN_CHARACTERS = 200
"""How much of an error text of the server is repeated in a message."""


class ServiceKey(Protocol):
    """Names a DepthService."""

    @property
    def namespace(self) -> str:
        """Its namespace."""

    @property
    def name(self) -> str:
        """Its name."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """Why there is no answer, as a sentence without the address."""

    reason: MissingReason
    message: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """The values by signal, and the doubts of the source about them."""

    values: dict[str, float]
    warning: str


class PrometheusMetrics:
    """Asks one Prometheus for the signals of a DepthService.

    The connection pool is opened by the first query and belongs to the event loop that made it; `close` ends it.
    `HTTP_PROXY`, `NO_PROXY` and `.netrc` are honoured (`trust_env`).

    Args:
        address: Base URL, such as `http://prometheus.monitoring.svc:9090`, with a path prefix if there is one.
        window_seconds: Range of the rates, at least four scrape intervals.
        timeout_seconds: Limit for one query, connection included.
        stale_after_seconds: Age from which on a pod's samples do not count.
        max_response_bytes: Limit for one answer.

    Raises:
        ValueError: If `address` is no http(s) URL with a host or a number is not positive.
    """

    def __init__(
        self,
        address: str,
        *,
        window_seconds: float = DEFAULT_WINDOW_SECONDS,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        stale_after_seconds: float = DEFAULT_STALE_AFTER_SECONDS,
        max_response_bytes: int = DEFAULT_MAX_RESPONSE_BYTES,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"the address of Prometheus must be a URL such as http://prometheus:9090, not {address!r}")
        for name, value in (("window_seconds", window_seconds), ("timeout_seconds", timeout_seconds)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value}")
        self._address = address.rstrip("/")
        self._window_seconds = math.ceil(window_seconds)
        self._timeout_seconds = timeout_seconds
        self._stale_after_seconds = stale_after_seconds
        self._max_response_bytes = max_response_bytes
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a later query opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def signals(self, key: ServiceKey) -> Signals:
        """The signals of one DepthService; never raises for what Prometheus does or does not do.

        Args:
            key: Namespace and name of the DepthService.
        """
        scope = Scope(key.namespace, key.name, self._window_seconds, self._stale_after_seconds)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                body = await self._post(signals_query(scope))
        except TimeoutError:
            body = _Fault(MissingReason.UNAVAILABLE, f"did not answer within {self._timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as error:
            body = _Fault(MissingReason.UNAVAILABLE, f"cannot be reached: {str(error) or type(error).__name__}")
        answer = body if isinstance(body, _Fault) else parse_answer(body)
        if isinstance(answer, _Fault):
            return Signals.unavailable(
                answer.reason,
                f"Prometheus at {self._address} {answer.message}; check that it runs and that"
                " DEPTH_OPERATOR_PROMETHEUS_ADDRESS (chart value prometheus.address) is right.",
            )
        return read_signals(answer.values, answer.warning, scope, self._address)

    async def _post(self, query: str) -> bytes | _Fault:
        """The body of a response, or why there is none. POST, since the query may be too long for a URL."""
        if self._session is None:
            # A compressed answer could unpack to far more than was read, so none is asked for and none is unpacked.
            self._session = aiohttp.ClientSession(
                trust_env=True, auto_decompress=False, headers={"Accept-Encoding": "identity"}
            )
        async with self._session.post(
            f"{self._address}/api/v1/query", data={"query": query}, allow_redirects=False
        ) as response:
            body = await _read_at_most(response.content, self._max_response_bytes)
            if body is None:
                return _Fault(
                    MissingReason.UNAVAILABLE,
                    f"answered with more than {self._max_response_bytes} bytes, which is no answer",
                )
            if response.status != 200:
                return _Fault(MissingReason.UNAVAILABLE, f"answered {response.status}{_error_of(body)}")
            return body


async def _read_at_most(stream: aiohttp.StreamReader, limit: int) -> bytes | None:
    """The whole body, or None as soon as it is longer than `limit` bytes."""
    body = bytearray()
    async for chunk in stream.iter_any():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def _error_of(body: bytes) -> str:
    """The `error` of an error response of the API as `: text`, empty if it is something else (a proxy's page)."""
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    error = document.get("error") if isinstance(document, dict) else None
    return f": {error[:_SHOWN_CHARACTERS]}" if isinstance(error, str) else ""


def parse_answer(body: bytes) -> _Answer | _Fault:
    """Read the response of an instant query.

    Args:
        body: JSON as `{"status": "success", "data": {"resultType": "vector", "result": […]}, "warnings": […]}`.
    """
    nonsense = _Fault(MissingReason.UNAVAILABLE, "answered something that is not a result of its query API")
    try:
        document = json.loads(body)
        if document["status"] != "success":
            return _Fault(MissingReason.UNAVAILABLE, f"answered with status {document['status']!r}{_error_of(body)}")
        data = document["data"]
        if data["resultType"] != "vector":
            return nonsense
        values: dict[str, float] = {}
        for item in data["result"]:
            name = item["metric"][SIGNAL_LABEL]
            if name in values:
                return _Fault(MissingReason.UNAVAILABLE, f"answered with more than one value for {str(name)[:40]!r}")
            values[name] = float(item["value"][1])
        warnings = document.get("warnings") or []
        return _Answer(values, "; ".join(str(warning)[:_SHOWN_CHARACTERS] for warning in warnings[:3]))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return nonsense


def read_signals(values: dict[str, float], warning: str, scope: Scope, address: str) -> Signals:
    """Turn the values of one answer into signals.

    Without the age of the youngest scrape no other value can be dated, so all are missing then: rates outlive their
    pods by a window.
    """
    age = values.get(SAMPLE_AGE, math.nan)
    service = f"{scope.namespace}/{scope.service}"
    if not math.isfinite(age):
        return Signals.unavailable(
            MissingReason.NO_SERIES,
            f"Prometheus at {address} has no current samples of {service}; check that it scrapes the pods and that"
            " the series carry the labels namespace, pod and service.",
        )

    def signal(name: str) -> Signal:
        value = values.get(name)
        if value is None:
            return Missing(
                MissingReason.NO_SERIES,
                f"Prometheus at {address} has no {name} of {service} yet; two scrapes are needed, more if it persists"
                " points to a server that does not export the metric.",
            )
        if math.isnan(value) and name.endswith("_p95_seconds"):
            return Missing(
                MissingReason.NO_OBSERVATIONS,
                f"No request of {service} was observed in the last {scope.window_seconds} s.",
            )
        return Sample(value, max(age, 0.0))

    return Signals(**{name: signal(name) for name in SIGNAL_NAMES}, warning=warning)
