"""Deadlines of one connection, on a virtual clock."""

from hypothesis import given
from hypothesis import strategies as st

from depth_server.client_pace import ClientPace, PaceLimits, SlowPhase

LIMITS = PaceLimits(head_seconds=5, body_seconds=5, answer_seconds=10, min_bytes_per_second=10_000)


def check(pace: ClientPace, now: float, *, waiting: bool = True, untaken: int = 0) -> SlowPhase | None:
    return pace.check(now, server_is_waiting=waiting, untaken=untaken)


def test_a_head_has_an_absolute_deadline() -> None:
    pace = ClientPace(LIMITS, 100)
    assert pace.deadline == 105
    assert check(pace, 104.9) is None
    assert check(pace, 105) is SlowPhase.HEAD


def test_nothing_is_awaited_while_the_server_works_or_the_connection_is_idle() -> None:
    pace = ClientPace(LIMITS, 0)
    pace.finish_request()
    assert pace.deadline is None
    assert check(pace, 1000) is None


def test_a_body_is_measured_in_every_period() -> None:
    pace = ClientPace(LIMITS, 0)
    pace.begin_body(1)
    pace.receive(50_000)
    assert check(pace, 6) is None
    assert pace.deadline == 11
    pace.receive(49_999)
    assert check(pace, 11) is SlowPhase.BODY


def test_a_fast_beginning_buys_no_slow_end() -> None:
    pace = ClientPace(LIMITS, 0)
    pace.begin_body(0)
    pace.receive(100_000_000)
    assert check(pace, 5) is None
    assert check(pace, 10) is SlowPhase.BODY


def test_time_in_which_the_client_waits_for_the_server_does_not_count() -> None:
    pace = ClientPace(LIMITS, 0)
    pace.begin_body(0)
    assert check(pace, 5, waiting=False) is None
    assert check(pace, 10, waiting=False) is None
    assert check(pace, 15) is SlowPhase.BODY


def test_the_rest_of_an_answered_body_has_one_period_at_any_rate() -> None:
    pace = ClientPace(LIMITS, 0)
    pace.begin_body(0)
    pace.begin_leftover(2)
    pace.receive(100_000_000)
    assert check(pace, 6.9) is None
    assert check(pace, 7) is SlowPhase.LEFTOVER


def test_an_answer_must_be_taken_at_a_rate() -> None:
    pace = ClientPace(LIMITS, 0)
    pace.finish_request()
    pace.begin_answer(1, 300_000)
    assert pace.deadline == 11
    assert check(pace, 11, untaken=200_000) is None
    assert check(pace, 21, untaken=150_000) is SlowPhase.ANSWER


def test_an_answer_that_is_taken_is_not_watched() -> None:
    pace = ClientPace(LIMITS, 0)
    pace.finish_request()
    pace.begin_answer(1, 0)
    assert pace.deadline is None
    pace.begin_answer(1, 300_000)
    assert check(pace, 11, untaken=0) is None
    assert pace.deadline is None


@given(st.lists(st.tuples(st.floats(0.01, 4.9), st.integers(0, 1_000_000)), max_size=200))
def test_a_client_that_is_fast_enough_at_every_moment_is_never_slow(steps: list[tuple[float, int]]) -> None:
    pace, now = ClientPace(LIMITS, 0), 0.0
    pace.begin_body(now)
    for seconds, more in steps:
        now += seconds
        pace.receive(int(seconds * LIMITS.min_bytes_per_second) + 1 + more)
        if pace.deadline is not None and now >= pace.deadline:
            # Called late, as a busy event loop does: whole steps were received since.
            assert check(pace, now) is None


@given(st.lists(st.integers(0, 49_999), min_size=1, max_size=50))
def test_a_client_below_the_rate_is_gone_after_one_period(counts: list[int]) -> None:
    pace = ClientPace(LIMITS, 0)
    pace.begin_body(0)
    pace.receive(counts[0])
    assert check(pace, 5) is SlowPhase.BODY


def test_a_rate_of_zero_allows_any() -> None:
    limits = PaceLimits(head_seconds=5, body_seconds=5, answer_seconds=10, min_bytes_per_second=0)
    pace = ClientPace(limits, 0)
    pace.begin_body(0)
    assert check(pace, 5) is None
    pace.finish_request()
    pace.begin_answer(0, 10)
    assert check(pace, 10, untaken=10) is None
