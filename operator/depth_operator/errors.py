"""Errors of the operator.

::

    OperatorError
    ├── InvalidSpecError        the object itself is wrong: wait for its next generation
    ├── NotLeadingError         the Lease is lost: stop
    └── ApiError                the API server refused or did not answer
        ├── NotFoundError       404
        ├── ConflictError       409: read again and retry
        ├── RefusedError        other 4xx: a person has to act; retried slowly
        └── UnavailableError    401, 408, 429, 5xx, timeouts, connections: retried, obeying Retry-After
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all errors that the operator raises."""


class InvalidSpecError(OperatorError):
    """A DepthService whose spec this operator cannot honour."""


class NotLeadingError(OperatorError):
    """A write was attempted by a process that does not hold the Lease."""


class ApiError(OperatorError):
    """A request to the API server failed.

    Attributes:
        operation: Verb and object, for example ``apply Deployment default/depth``.
        status: HTTP status; 0 where there was no answer.
        reason: ``metav1.Status.reason``, for example ``Forbidden``.
        message: The API server's words.
        retry_after_seconds: From the Retry-After header.
    """

    def __init__(
        self, operation: str, status: int, reason: str, message: str, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(f"{operation}: {reason or status}: {message}")
        self.operation = operation
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class NotFoundError(ApiError):
    """The object, or the kind, does not exist."""


class ConflictError(ApiError):
    """A precondition or a resource version did not hold."""


class RefusedError(ApiError):
    """Forbidden, invalid or otherwise refused: the same request will be refused again until a person acts."""


class UnavailableError(ApiError):
    """The API server is overloaded, broken or out of reach: the same request may succeed later."""


_UNAVAILABLE = frozenset({0, 401, 408, 425, 429})
"""Statuses below 500 that may pass by themselves; 401 is a token that has expired and is read anew."""


def api_error(
    operation: str, status: int, reason: str, message: str, retry_after_seconds: float | None = None
) -> ApiError:
    """Choose the error class for an HTTP status; 0 stands for no answer."""
    error: type[ApiError]
    if status in _UNAVAILABLE or status >= 500:
        error = UnavailableError
    elif status == 404:
        error = NotFoundError
    elif status == 409:
        error = ConflictError
    else:
        error = RefusedError
    return error(operation, status, reason, message, retry_after_seconds)
