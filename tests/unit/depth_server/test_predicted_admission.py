"""Admission by predicted finish, and the other reasons to refuse that are known before any work."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.admission import Admission
from depth_server.batch_queue import Forecast, OverloadPolicy
from depth_server.batching import Lane
from depth_server.deadlines import request_deadline
from depth_server.errors import InvalidDeadlineError, OverloadedError, RateLimitedError
from depth_server.preprocess import Size
from depth_server.problems import spread_retry_after
from depth_server.rate_limit import RateLimiter


class Engine:
    """Says what it is told to."""

    replicas = 1

    def __init__(self, wait: float = 0.0, forward: float = 1.0, image: float = 0.5) -> None:
        self.answer = Forecast(wait, forward, forward, image)

    def forecast(self, size: Size, lane: Lane = Lane.INTERACTIVE) -> Forecast:
        del size, lane
        return self.answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(engine: Engine, **options: object) -> Admission:
    bounds: dict[str, object] = {
        "max_requests": 100,
        "max_upload_bytes": 1000,
        "max_inflight_upload_bytes": 100_000,
        "slo_seconds": 10.0,
        **options,
    }
    gate = Admission(**bounds)  # type: ignore[arg-type]  # the keywords of Admission
    gate.follow(engine)
    return gate


def test_a_request_that_would_be_late_is_refused_with_the_time_it_lacks() -> None:
    gate = admission(Engine(wait=12.0))
    with pytest.raises(OverloadedError, match="too late") as refused, gate.admit(1):
        pass
    assert refused.value.retry_after_seconds == 4  # 12 + 1 - 0.9 * 10
    assert gate.inflight == 0


def test_a_server_without_work_takes_what_it_can_never_finish_in_time() -> None:
    gate = admission(Engine(wait=0.0, forward=100.0))
    with gate.admit(1) as permit:
        permit.begin_work()


def test_requests_on_their_way_to_the_engine_count() -> None:
    gate = admission(Engine(wait=0.0, forward=1.0, image=1.0))
    with ExitStack() as stack:
        for _ in range(9):
            stack.enter_context(gate.admit(1)).begin_work()
        with pytest.raises(OverloadedError):
            stack.enter_context(gate.admit(1))
        assert gate.preparing == 9
    assert gate.preparing == 0


def test_a_slow_upload_keeps_nobody_out() -> None:
    gate = admission(Engine(image=1.0))
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(gate.admit(1))
        assert gate.preparing == 0


def test_the_second_question_is_asked_before_decoding() -> None:
    engine = Engine()
    gate = admission(engine)
    with gate.admit(1) as permit:
        engine.answer = Forecast(20.0, 1.0, 1.0, 1.0)
        with pytest.raises(OverloadedError):
            permit.begin_work()
        assert gate.preparing == 0


def test_jobs_and_the_policy_that_drops_the_oldest_are_not_refused_for_time() -> None:
    with admission(Engine(wait=100.0)).admit(1, Lane.JOB) as permit:
        permit.begin_work()
    with admission(Engine(wait=100.0), overload=OverloadPolicy.DROP_OLDEST).admit(1) as permit:
        permit.begin_work()


def test_the_overhead_is_learnt_and_bounded() -> None:
    clock = Clock()
    engine = Engine(wait=0.0, forward=1.0)
    gate = admission(engine, clock=clock)
    for _ in range(100):
        with gate.admit(1) as permit:
            permit.begin_work()
            clock.now += 3.0
            permit.observe_engine(1.0)
    assert gate.overhead_seconds == pytest.approx(2.0, rel=0.01)
    engine.answer = Forecast(5.5, 1.0, 1.0, 1.0)
    with gate.admit(1):
        pass
    engine.answer = Forecast(6.5, 1.0, 1.0, 1.0)
    with pytest.raises(OverloadedError), gate.admit(1):
        pass
    engine.answer = Forecast(0.0, 1.0, 1.0, 1.0)
    for _ in range(100):
        with gate.admit(1) as permit:
            permit.begin_work()
            clock.now += 1000.0
            permit.observe_engine(1.0)
    assert gate.overhead_seconds == 5.0


def test_images_in_work_are_bounded_by_their_memory() -> None:
    gate = admission(Engine(), max_work_units=4.0)
    with gate.admit(1) as permit:
        permit.set_work_units(4.5)
        with pytest.raises(OverloadedError, match="work units"), gate.admit(1):
            pass


def test_bounds_hold_for_each_replica_of_the_engine() -> None:
    engine = Engine(wait=0.0, image=0.0)
    engine.replicas = 3
    gate = admission(engine, max_requests=2)
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(gate.admit(1))
        with pytest.raises(OverloadedError, match="6 requests"):
            stack.enter_context(gate.admit(1))


@given(
    waits=st.lists(st.tuples(st.floats(0, 30), st.floats(0.001, 5), st.booleans()), max_size=60),
    slo=st.floats(0.05, 20),
)
def test_what_is_admitted_is_predicted_to_be_in_time_or_alone(
    waits: list[tuple[float, float, bool]], slo: float
) -> None:
    engine = Engine()
    gate = admission(engine, slo_seconds=slo, max_requests=20)
    with ExitStack() as stack:
        for wait, forward, begins in waits:
            engine.answer = Forecast(wait, forward, forward, forward / 2)
            before = (gate.inflight, gate.preparing)
            try:
                permit = stack.enter_context(gate.admit(1))
                if begins:
                    permit.begin_work()
            except OverloadedError:
                assert wait + before[1] > 0 or before[0] >= 20
                continue
            ahead = before[1] * forward / 2
            assert wait + ahead == 0 or wait + ahead + forward <= 0.9 * slo + 1e-9
            assert gate.inflight <= 20
    assert (gate.inflight, gate.preparing, gate.work_units) == (0, 0, 0.0)


def test_the_rate_of_each_client_is_limited() -> None:
    clock = Clock()
    gate = admission(Engine(), rate_limiter=RateLimiter(2.0, 3, 10, clock))
    for _ in range(3):
        gate.check_rate("a")
    with pytest.raises(RateLimitedError) as refused:
        gate.check_rate("a")
    assert refused.value.retry_after_seconds == 1
    gate.check_rate("b")
    clock.now += 0.5
    gate.check_rate("a")
    with pytest.raises(RateLimitedError):
        gate.check_rate("a")


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 8)), max_size=200),
    st.sampled_from([0.5, 2.0, 10.0]),
    st.integers(1, 5),
)
def test_a_token_bucket_bounds_every_client_and_is_bounded_itself(
    steps: list[tuple[float, int]], rate: float, burst: int
) -> None:
    clock = Clock()
    limiter = RateLimiter(rate, burst, 4, clock)
    taken = 0
    for pause, client in steps:
        clock.now += pause
        wait = limiter.take("watched")
        assert wait >= 0
        taken += wait == 0
        if client:
            limiter.take(f"other {client % 3}")
        assert len(limiter) <= 4
    assert taken <= burst + rate * clock.now + 1e-6


def test_a_client_is_told_when_its_next_request_is_taken() -> None:
    clock = Clock()
    limiter = RateLimiter(0.5, 1, 10, clock)
    assert limiter.take("a") == 0
    wait = limiter.take("a")
    assert wait == pytest.approx(2.0)
    clock.now += wait
    assert limiter.take("a") == 0


def test_the_deadline_is_the_shorter_of_the_clients_and_the_servers() -> None:
    assert request_deadline({}, 100.0, longest=60.0) == 160.0
    assert request_deadline({"x-request-timeout-ms": " 250 "}, 100.0, longest=60.0) == 100.25
    assert request_deadline({"x-request-timeout-ms": "3600000"}, 100.0, longest=60.0) == 160.0


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "1e3", "soon", "٣", "3600001", "9" * 400, "250, 300"])
def test_a_deadline_that_is_no_duration_is_refused(value: str) -> None:
    with pytest.raises(InvalidDeadlineError, match="X-Request-Timeout-Ms"):
        request_deadline({"x-request-timeout-ms": value}, 0.0, 60.0)


@given(st.integers(1, 60), st.floats(0, 1))
def test_refused_clients_are_spread_but_not_sent_away_for_long(seconds: int, fraction: float) -> None:
    assert seconds <= spread_retry_after(seconds, fraction) <= seconds + max(seconds / 2, 1) + 0.5
