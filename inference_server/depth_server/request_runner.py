"""One request of any endpoint that computes depth: admitted, received, computed in time, counted.

A request that is refused, too late or abandoned stops at the next step and costs no forward pass.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fastapi import Request

from depth_server.admission import Admission, Permit
from depth_server.auth import PRINCIPAL, Principal
from depth_server.deadlines import request_deadline
from depth_server.engine import Engine, ModelInfo, retry_after
from depth_server.errors import (
    ClientDisconnectedError,
    ConnectionLimitError,
    DeadlineExceededError,
    DepthServerError,
    NotReadyError,
    Outcome,
    UploadTimeoutError,
    http_error,
)
from depth_server.health import Health
from depth_server.metrics import ServerMetrics
from depth_server.request_body import Body
from depth_server.settings import Settings

Received = TypeVar("Received")

JSON_MEDIA_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with.

    Attributes:
        body: In its media type.
        headers: Beside those of every answer.
        media_type: Of the body.
        outcomes: One for each image, for the metrics.
    """

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = JSON_MEDIA_TYPE
    outcomes: tuple[Outcome, ...] = (Outcome.SUCCESS,)


@dataclass(frozen=True, slots=True)
class Work:
    """What the computation of an answer needs beside what was received.

    Attributes:
        permit: The place that the request holds.
        model: What runs.
        deadline: When nobody wants the answer any more, in seconds of `time.monotonic`.
    """

    permit: Permit
    model: ModelInfo
    deadline: float


Read = Callable[[AsyncIterator[bytes], Permit], Awaitable[Received]]
"""Reads a body and accounts for its bytes."""

Compute = Callable[[Received, Work], Coroutine[Any, Any, Answer]]
"""Makes the answer of what was received."""


class RequestRunner:
    """Runs requests.

    Args:
        settings: Bounds.
        engine: Asked how long a refused client should wait.
        health: Whether to serve at all.
        admission: Bounds in number, bytes, rate and time.
        metrics: Told of every request.
    """

    def __init__(
        self, *, settings: Settings, engine: Engine, health: Health, admission: Admission, metrics: ServerMetrics
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._health = health
        self._admission = admission
        self._metrics = metrics
        self.model: ModelInfo | None = None

    async def run(
        self,
        request: Request,
        read: Read[Received],
        plan: Callable[[], Compute[Received]],
        max_bytes: int | None = None,
    ) -> Answer:
        """Answer one request.

        Args:
            request: Its body is not read yet.
            read: Reads it.
            plan: Looks at the query and the headers, before anything is received, and gives what makes the answer;
                that is cancelled when it is too late or the client has left.
            max_bytes: Of the body; None is the limit of one upload.

        Raises:
            DepthServerError: See `errors.HTTP_ERRORS`.
        """
        outcomes: tuple[Outcome, ...] = (Outcome.FAILED,)
        body = Body(request)
        try:
            answer = await self._run(request, body, read, plan(), max_bytes)
            outcomes = answer.outcomes
        except DepthServerError as error:
            outcomes = (http_error(type(error)).outcome,)
            if not isinstance(error, (UploadTimeoutError, ClientDisconnectedError, ConnectionLimitError)):
                await body.discard(self._settings.max_upload_bytes)
            raise
        except asyncio.CancelledError:
            outcomes = (Outcome.UNAVAILABLE,)
            raise
        finally:
            for outcome in outcomes:
                self._metrics.count_request(outcome)
        return answer

    async def _run(
        self, request: Request, body: Body, read: Read[Received], compute: Compute[Received], max_bytes: int | None
    ) -> Answer:
        settings = self._settings
        report, model = self._health.report, self.model
        if model is None or not self._health.accepts_requests:
            message = f"the server is in the state {report.state}: {report.detail}"
            raise NotReadyError(message)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal():
            self._admission.check_upload_bytes(int(announced), max_bytes)
        deadline = request_deadline(request.headers, time.monotonic(), longest=math.inf)
        self._admission.check_rate(client_name(request))
        with self._admission.admit(retry_after(self._engine.expected_wait_seconds)) as permit:
            permit.max_upload_bytes = max_bytes
            receiving = body.receive(lambda chunks: read(chunks, permit), settings.upload_timeout_seconds)
            # What was received is bound to no name here, so that it can be freed as soon as it is decoded.
            computation = self._begin(await receiving, permit, compute, model, deadline)
            return await self._finish_in_time(request, computation, deadline)

    async def _begin(
        self, received: Received, permit: Permit, compute: Compute[Received], model: ModelInfo, deadline: float
    ) -> Answer:
        permit.begin_work()
        deadline = min(deadline, time.monotonic() + self._settings.request_timeout_seconds)
        computing = compute(received, Work(permit, model, deadline))
        del received
        return await computing

    async def _finish_in_time(
        self, request: Request, computation: Coroutine[Any, Any, Answer], deadline: float
    ) -> Answer:
        """Wait for the computation, its deadline or the client's departure, whichever comes first."""
        limit = max(min(self._settings.request_timeout_seconds, deadline - time.monotonic()), 0.0)
        work = asyncio.create_task(computation)
        departure = asyncio.create_task(_wait_for_disconnect(request))
        try:
            done, _ = await asyncio.wait({work, departure}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if work in done:
                return work.result()
            if departure in done:
                message = "the client left before its answer was ready"
                raise ClientDisconnectedError(message)
            message = f"the request was not finished within {limit:.3g} s"
            raise DeadlineExceededError(message)
        finally:
            work.cancel()
            departure.cancel()
            await asyncio.gather(work, departure, return_exceptions=True)


def client_name(request: Request) -> str:
    """Name whoever is limited in the rate of its requests: by its credentials, or else by its address."""
    principal = request.scope.get("state", {}).get(PRINCIPAL)
    if isinstance(principal, Principal):
        return f"subject {principal.subject}"
    return f"address {request.client.host if request.client else ''}"


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
