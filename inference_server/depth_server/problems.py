"""Turns errors into `application/problem+json` (RFC 9457), by the one table in `errors`."""

from http import HTTPStatus
from random import random
from typing import Final

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from depth_server.errors import (
    PROBLEM_MEDIA_TYPE,
    AccessError,
    CapacityError,
    DepthServerError,
    OverloadedError,
    RateLimitedError,
    http_error,
)
from depth_server.health import HealthReport
from depth_server.security_headers import SECURITY_HEADERS

PROTOCOL_PREFIX: Final = "/v2"
"""Paths of the Open Inference Protocol, whose clients read the member `error`; RFC 9457 lets a problem have it."""


def problem_response(error: DepthServerError, report: HealthReport | None = None, *, path: str = "") -> Response:
    """Answer an error.

    Args:
        error: What happened.
        report: Added as `state` where the server's state is the reason.
        path: Of the request.
    """
    row = http_error(type(error))
    retry_after = row.retry_after_seconds
    if isinstance(error, CapacityError) and error.retry_after_seconds is not None:
        retry_after = error.retry_after_seconds
    body: dict[str, object] = {"type": row.type, "title": row.title, "status": row.status, "detail": str(error)}
    if report is not None:
        body["state"] = report.state.value
    if path.startswith(PROTOCOL_PREFIX):
        body["error"] = str(error)
    if retry_after is not None and isinstance(error, (OverloadedError, RateLimitedError)):
        retry_after = spread_retry_after(retry_after, random())  # noqa: S311 no secret
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if isinstance(error, AccessError):
        headers["WWW-Authenticate"] = error.challenge
    return Response(orjson.dumps(body), row.status, headers, PROBLEM_MEDIA_TYPE)


def spread_retry_after(seconds: int, fraction: float) -> int:
    """Lengthen a `Retry-After` by up to a half, at least by up to a second: refused clients must not return together.

    Args:
        seconds: At least 1.
        fraction: From 0 to 1, drawn for this answer.
    """
    return seconds + round(fraction * max(seconds / 2, 1))


def add_error_handlers(app: FastAPI) -> None:
    """Let every error answer of the application be a problem document."""

    def answer_own(request: Request, error: Exception) -> Response:
        if not isinstance(error, DepthServerError):
            raise error
        return problem_response(error, path=request.url.path)

    def answer_http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        title = HTTPStatus(error.status_code).phrase
        body = {"type": "about:blank", "title": title, "status": error.status_code, "detail": error.detail}
        if request.url.path.startswith(PROTOCOL_PREFIX):
            body["error"] = error.detail
        return Response(orjson.dumps(body), error.status_code, error.headers, PROBLEM_MEDIA_TYPE)

    def answer_unexpected(request: Request, error: Exception) -> Response:
        # Starlette raises it again after this answer, and uvicorn logs it with its traceback.
        shown = DepthServerError(f"unexpected {type(error).__name__}; the server's log has more")
        response = problem_response(shown, path=request.url.path)
        # And it answers outside of all middleware.
        response.headers.update(SECURITY_HEADERS)
        return response

    app.add_exception_handler(DepthServerError, answer_own)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(Exception, answer_unexpected)
