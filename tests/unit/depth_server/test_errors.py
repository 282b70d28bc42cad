import inspect

import pytest

from depth_server import errors
from depth_server.errors import (
    CapacityError,
    DepthServerError,
    EngineMemoryError,
    NotReadyError,
    Outcome,
    OverloadedError,
    StartupError,
    StartupReason,
    http_error,
    outcome_of,
)

ABSTRACT = {errors.RequestError, errors.AccessError, errors.CapacityError, errors.EngineError, errors.StartupError}
CONCRETE = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, DepthServerError) and value not in ABSTRACT
]


@pytest.mark.parametrize("error_type", CONCRETE)
def test_every_error_has_its_own_row(error_type: type[DepthServerError]) -> None:
    assert error_type in errors.HTTP_ERRORS


def test_types_are_distinct() -> None:
    rows = list(errors.HTTP_ERRORS.values())
    assert len({row.type for row in rows}) == len({row.title for row in rows}) == len(rows)


@pytest.mark.parametrize("error_type", [OverloadedError, EngineMemoryError, NotReadyError])
def test_what_may_pass_later_says_when(error_type: type[CapacityError]) -> None:
    assert http_error(error_type).retry_after_seconds is not None


def test_unlisted_error_is_answered_like_its_base() -> None:
    class NewError(OverloadedError):
        pass

    assert http_error(NewError).status == 429


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.SUCCESS),
        (400, Outcome.INVALID),
        (413, Outcome.INVALID),
        (429, Outcome.REJECTED),
        (499, Outcome.ABANDONED),
        (500, Outcome.FAILED),
        (503, Outcome.UNAVAILABLE),
        (504, Outcome.FAILED),
    ],
)
def test_outcomes_are_the_contracts(status: int, outcome: Outcome) -> None:
    assert outcome_of(status) is outcome


def test_termination_message_is_one_line() -> None:
    error = StartupError(StartupReason.WEIGHTS_INVALID, "first\nsecond  third")
    assert error.termination_message() == "WeightsInvalid: first second third"


def test_docstring_draws_every_class() -> None:
    assert errors.__doc__ is not None
    for error_type in CONCRETE:
        assert error_type.__name__ in errors.__doc__
