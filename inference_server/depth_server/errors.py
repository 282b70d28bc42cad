"""Errors of the server and the one table that turns them into HTTP answers.

DepthServerError
├── RequestError                 the client has to change something
│   ├── InvalidRequestError      damaged or incomplete multipart, no field `file`, no valid JSON or tensors
│   ├── InvalidParameterError    a query parameter that is unknown or has a wrong value
│   ├── NotAcceptableError       no representation that the client accepts
│   ├── ModelNotFoundError       another model than the one served here
│   ├── InvalidImageError        empty, truncated or damaged image
│   ├── UnsupportedMediaError    not an image, or not in a supported format
│   ├── UploadTooLargeError      too many bytes
│   ├── ImageTooLargeError       too many pixels
│   ├── UploadTimeoutError       the body came too slowly
│   ├── ClientDisconnectedError  the upload was complete, but nobody waits for the answer any more
│   ├── InvalidDeadlineError     the deadline header cannot be understood
│   └── AccessError              the client may not do this
│       ├── UnauthenticatedError no valid credentials
│       └── ForbiddenError       valid credentials that do not suffice
├── CapacityError                the same request may succeed later
│   ├── OverloadedError          the queue is full, or the answer would come too late
│   │   └── DroppedError         accepted, and dropped for others when it was late
│   ├── ConnectionLimitError     all connections are busy
│   ├── RateLimitedError         this client asks too often
│   ├── EngineMemoryError        the device had no memory for this image
│   ├── NotReadyError            starting, draining or failed
│   ├── CredentialsUnavailableError  credentials cannot be verified at the moment
│   ├── FaceDetectionError       faces could not be looked for
│   └── DeadlineExceededError    accepted, but not finished in time
├── EngineError                  the server's fault
│   ├── ForwardError             the forward pass raised
│   ├── NonFiniteDepthError      the model gave NaN or infinity
│   └── EngineStoppedError       the engine crashed or was closed with the request pending
└── StartupError                 the server cannot start; carries a reason for the operator
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class DepthServerError(Exception):
    """Base of all errors the server raises on purpose; the message is shown to the client."""


class RequestError(DepthServerError):
    """The client has to change something."""


class InvalidRequestError(RequestError):
    """The body is not what the endpoint takes: a damaged form, no field `file`, no valid JSON or tensors."""


class InvalidParameterError(RequestError):
    """A parameter is unknown or has a wrong value."""


class NotAcceptableError(RequestError):
    """There is no representation that the client accepts."""


class ModelNotFoundError(RequestError):
    """The request names another model than the one that is served."""


class InvalidImageError(RequestError):
    """The upload is empty, truncated or damaged."""


class UnsupportedMediaError(RequestError):
    """The upload is no image, or an image in a format or pixel type that is not supported."""


class UploadTooLargeError(RequestError):
    """The body or the file has too many bytes."""


class ImageTooLargeError(RequestError):
    """The image has too many pixels."""


class UploadTimeoutError(RequestError):
    """The body did not arrive in time."""


class InvalidDeadlineError(RequestError):
    """The header with the client's deadline cannot be understood."""


class ClientDisconnectedError(RequestError):
    """The client closed the connection after its upload and before its answer was ready."""


class AccessError(RequestError):
    """The client may not do this.

    Attributes:
        challenge: Value of the header `WWW-Authenticate` (RFC 9110 section 11.6.1).
    """

    def __init__(self, message: str, *, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class UnauthenticatedError(AccessError):
    """There are no credentials, or they are not valid."""


class ForbiddenError(AccessError):
    """The credentials are valid and do not suffice."""


class CapacityError(DepthServerError):
    """The same request may succeed later.

    Attributes:
        retry_after_seconds: When to try again, at least 1; None leaves it to the table.
    """

    def __init__(self, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class OverloadedError(CapacityError):
    """The queue of requests or of bytes is full, or the answer would come too late."""


class DroppedError(OverloadedError):
    """The request was accepted, and dropped before its forward pass: it was late, or a newer one took its place."""


class RateLimitedError(CapacityError):
    """This client asks more often than it may."""


class ConnectionLimitError(CapacityError):
    """All connections that may be open are busy."""


class EngineMemoryError(CapacityError):
    """The device had no memory for this image."""


class NotReadyError(CapacityError):
    """The server starts, drains or has failed."""


class CredentialsUnavailableError(CapacityError):
    """Credentials cannot be verified at the moment: there are no keys to do it with."""


class FaceDetectionError(CapacityError):
    """Faces could not be looked for, so the image must not be used."""


class DeadlineExceededError(CapacityError):
    """The request was accepted but not finished in time."""


class EngineError(DepthServerError):
    """The server's fault."""


class ForwardError(EngineError):
    """The forward pass raised."""


class NonFiniteDepthError(EngineError):
    """The model gave NaN or infinity for this image."""


class EngineStoppedError(EngineError):
    """The engine crashed or was closed while the request was pending."""


class StartupReason(StrEnum):
    """Why the server cannot start; the operator repeats it in the condition `Ready`."""

    WEIGHTS_NOT_FOUND = "WeightsNotFound"
    WEIGHTS_INVALID = "WeightsInvalid"
    DIGEST_MISMATCH = "DigestMismatch"
    MODEL_MISMATCH = "ModelMismatch"
    DOWNLOAD_FAILED = "DownloadFailed"
    LICENSE_NOT_ACCEPTED = "LicenseNotAccepted"
    OUTPUT_MISMATCH = "OutputMismatch"
    BACKEND_UNAVAILABLE = "BackendUnavailable"
    DEVICE_UNAVAILABLE = "DeviceUnavailable"
    INVALID_SETTINGS = "InvalidSettings"
    OUT_OF_MEMORY = "OutOfMemory"
    INTERNAL_ERROR = "InternalError"


class StartupError(DepthServerError):
    """The server cannot start.

    Attributes:
        reason: Stable name for machines; the message is for people.
    """

    def __init__(self, reason: StartupReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def termination_message(self) -> str:
        """Return `Reason: message` on one line."""
        return f"{self.reason}: {' '.join(str(self).split())}"


class Outcome(StrEnum):
    """Values of the label `outcome` of `depth_server_requests_total`."""

    SUCCESS = "success"
    REJECTED = "rejected"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    ABANDONED = "abandoned"
    """The client gave up waiting: demand that was not met, unlike `invalid`."""
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class HttpError:
    """How one kind of error is answered (RFC 9457).

    Attributes:
        status: HTTP status.
        slug: Last part of the problem type.
        title: Summary that does not change between occurrences.
        retry_after_seconds: Default of the header `Retry-After`; None sends none.
    """

    status: int
    slug: str
    title: str
    retry_after_seconds: int | None = None

    @property
    def type(self) -> str:
        """Problem type: a URN, since it names and is not meant to be fetched."""
        return PROBLEM_TYPE_PREFIX + self.slug

    @property
    def outcome(self) -> Outcome:
        """The outcome that is counted for this answer."""
        return outcome_of(self.status)


PROBLEM_TYPE_PREFIX: Final = "urn:depthserving:problem:"
"""Prefix of problem types."""

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
"""Media type of every error answer (RFC 9457)."""

CLIENT_CLOSED_REQUEST: Final = 499
"""nginx's status for a client that left; it is counted, never sent."""

HTTP_ERRORS: Final[dict[type[DepthServerError], HttpError]] = {
    InvalidRequestError: HttpError(400, "invalid-request", "The request is not well-formed"),
    InvalidDeadlineError: HttpError(400, "invalid-deadline", "The deadline cannot be understood"),
    InvalidImageError: HttpError(400, "invalid-image", "The image cannot be decoded"),
    UnauthenticatedError: HttpError(401, "unauthenticated", "Valid credentials are needed"),
    ForbiddenError: HttpError(403, "forbidden", "The credentials do not suffice"),
    ModelNotFoundError: HttpError(404, "model-not-found", "The model is not served here"),
    NotAcceptableError: HttpError(406, "not-acceptable", "There is no acceptable representation"),
    UploadTimeoutError: HttpError(408, "upload-timeout", "The upload took too long"),
    UploadTooLargeError: HttpError(413, "upload-too-large", "The upload has too many bytes"),
    ImageTooLargeError: HttpError(413, "image-too-large", "The image has too many pixels"),
    UnsupportedMediaError: HttpError(415, "unsupported-media", "The upload is not a supported image"),
    ClientDisconnectedError: HttpError(CLIENT_CLOSED_REQUEST, "client-disconnected", "The client left"),
    InvalidParameterError: HttpError(422, "invalid-parameter", "A parameter is not valid"),
    OverloadedError: HttpError(429, "overloaded", "The server has no room for the request", 1),
    DroppedError: HttpError(429, "dropped", "The request was dropped for others", 1),
    RateLimitedError: HttpError(429, "rate-limited", "The client asks too often", 1),
    EngineMemoryError: HttpError(429, "out-of-memory", "The device has no memory for the request", 5),
    ConnectionLimitError: HttpError(503, "too-many-connections", "The server has no room for the connection", 1),
    NotReadyError: HttpError(503, "not-ready", "The server is not ready", 5),
    CredentialsUnavailableError: HttpError(503, "credentials-unavailable", "Credentials cannot be verified", 5),
    FaceDetectionError: HttpError(503, "face-detection-failed", "Faces could not be looked for", 5),
    DeadlineExceededError: HttpError(504, "deadline-exceeded", "The request was not finished in time"),
    ForwardError: HttpError(500, "forward-failed", "The model failed"),
    NonFiniteDepthError: HttpError(500, "non-finite-depth", "The model gave no finite depth"),
    EngineStoppedError: HttpError(503, "engine-stopped", "The engine stopped", 5),
    DepthServerError: HttpError(500, "internal", "Internal error"),
}
"""The only place where an error gets its status. A class not listed is answered like its nearest listed base."""


def http_error(error_type: type[DepthServerError]) -> HttpError:
    """Find the row of an error class, or that of its nearest listed base."""
    return next(HTTP_ERRORS[base] for base in error_type.__mro__ if base in HTTP_ERRORS)


def outcome_of(status: int) -> Outcome:
    """Classify an HTTP status for the metrics."""
    if status < 400:
        return Outcome.SUCCESS
    if status == 429:
        return Outcome.REJECTED
    if status == 503:
        return Outcome.UNAVAILABLE
    if status == CLIENT_CLOSED_REQUEST:
        return Outcome.ABANDONED
    return Outcome.INVALID if status < 500 else Outcome.FAILED
