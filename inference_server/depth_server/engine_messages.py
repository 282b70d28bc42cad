"""Messages between the API process and an engine process: JSON with a `type`, checked when read; never pickles.

Requests: `submit`, `cancel`, `close`. Replies: `progress`, `loaded`, `ready`, `failed`, `depth`, `error`, `stats`.
Every `submit` gets exactly one `depth` or `error`, and its slot belongs to the engine process until then. Times are
seconds of the monotonic clock, which all processes of a host share.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from depth_server.batching import Lane
from depth_server.engine import ModelInfo
from depth_server.errors import (
    CapacityError,
    DeadlineExceededError,
    DepthServerError,
    DroppedError,
    EngineMemoryError,
    EngineStoppedError,
    ForwardError,
    NonFiniteDepthError,
    OverloadedError,
    StartupReason,
)
from depth_server.preprocess import Size

WIRE_ERRORS: Final[dict[str, type[DepthServerError]]] = {
    error.__name__: error
    for error in (
        DeadlineExceededError,
        DroppedError,
        EngineMemoryError,
        EngineStoppedError,
        ForwardError,
        NonFiniteDepthError,
        OverloadedError,
    )
}
"""Errors that an engine gives; any other arrives as `ForwardError`."""

CANCELLED: Final = "Cancelled"
"""In place of an error's name where the request was cancelled."""


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SubmitMessage(Message):
    """Compute the image in a slot."""

    type: Literal["submit"] = "submit"
    id: int
    offset: int = Field(ge=0)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    lane: Lane
    deadline: float | None


class CancelMessage(Message):
    """Nobody wants the image any more."""

    type: Literal["cancel"] = "cancel"
    id: int


class CloseMessage(Message):
    """Fail what is pending and end."""

    type: Literal["close"] = "close"
    reason: str


class ProgressMessage(Message):
    """What is being done until the model is loaded, for people who wait."""

    type: Literal["progress"] = "progress"
    detail: str


class LoadedMessage(Message):
    """The model is loaded, its warm-up begins."""

    type: Literal["loaded"] = "loaded"
    info: ModelInfo


class CellMessage(Message):
    """A measured forward pass."""

    height: int
    width: int
    batch_size: int
    seconds: float


class ReadyMessage(Message):
    """Images are taken."""

    type: Literal["ready"] = "ready"
    info: ModelInfo
    batch_limit: int
    cells: list[CellMessage]


class FailedMessage(Message):
    """The engine cannot start."""

    type: Literal["failed"] = "failed"
    reason: StartupReason
    message: str


class DepthMessage(Message):
    """The depth is in the slot."""

    type: Literal["depth"] = "depth"
    id: int
    queue_seconds: float
    forward_seconds: float
    batch_size: int


class ErrorMessage(Message):
    """There is no depth."""

    type: Literal["error"] = "error"
    id: int
    error: str
    message: str
    retry_after_seconds: int | None = None


class StatsMessage(Message):
    """How the engine fares, regularly: also the sign that its process lives."""

    type: Literal["stats"] = "stats"
    waiting: int
    busy_seconds: float
    gpu_busy_seconds: float | None
    current_forward_seconds: float


Request = SubmitMessage | CancelMessage | CloseMessage
Reply = ProgressMessage | LoadedMessage | ReadyMessage | FailedMessage | DepthMessage | ErrorMessage | StatsMessage

REQUEST: Final[TypeAdapter[Request]] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
"""Reads requests."""

REPLY: Final[TypeAdapter[Reply]] = TypeAdapter(Annotated[Reply, Field(discriminator="type")])
"""Reads replies."""


def encode(message: Message) -> bytes:
    """Write a message."""
    return message.model_dump_json().encode()


def error_message(key: int, error: BaseException) -> ErrorMessage:
    """Describe an error for the wire."""
    name = type(error).__name__
    if name not in WIRE_ERRORS:
        return ErrorMessage(id=key, error=ForwardError.__name__, message=f"the engine failed: {name}")
    retry_after = error.retry_after_seconds if isinstance(error, CapacityError) else None
    return ErrorMessage(id=key, error=name, message=str(error), retry_after_seconds=retry_after)


def error_of(message: ErrorMessage) -> DepthServerError:
    """Make the error again that was described."""
    error_type = WIRE_ERRORS.get(message.error, ForwardError)
    if issubclass(error_type, CapacityError):
        return error_type(message.message, retry_after_seconds=message.retry_after_seconds)
    return error_type(message.message)


def size_of(message: SubmitMessage | CellMessage) -> Size:
    """Tell the size that a message speaks of."""
    return Size(message.height, message.width)
