import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.health import Health, HealthReport, HealthState

STATES = list(HealthState)


def test_the_way_up_and_down() -> None:
    health = Health()
    assert health.report.state is HealthState.STARTING
    for state in (HealthState.WARMING_UP, HealthState.READY, HealthState.DRAINING):
        assert health.advance(state, state.lower())
        assert health.report == HealthReport(state, state.lower())
        assert health.accepts_requests is (state is not HealthState.WARMING_UP)
    health.advance(HealthState.FAILED, "crashed")
    assert not health.accepts_requests


@pytest.mark.parametrize(
    ("state", "live", "ready"),
    [
        (HealthState.STARTING, True, False),
        (HealthState.WARMING_UP, True, False),
        (HealthState.READY, True, True),
        (HealthState.DRAINING, True, False),
        (HealthState.FAILED, False, False),
    ],
)
def test_what_each_state_means(state: HealthState, live: bool, ready: bool) -> None:
    report = HealthReport(state, "")
    assert (report.is_live, report.is_ready) == (live, ready)


def test_late_warm_up_does_not_undo_a_drain() -> None:
    health = Health()
    health.advance(HealthState.DRAINING, "told to stop")
    assert not health.advance(HealthState.WARMING_UP, "loaded")
    assert not health.advance(HealthState.READY, "warm")
    assert health.report.state is HealthState.DRAINING
    assert not health.accepts_requests, "a server that was never ready has nothing to serve with"
    assert not health.was_ready


@given(st.lists(st.sampled_from(STATES)))
def test_ready_comes_only_after_warm_up_and_failure_is_final(steps: list[HealthState]) -> None:
    health = Health()
    seen = [health.report.state, *(step for step in steps if health.advance(step, ""))]
    if HealthState.READY in seen:
        assert seen[seen.index(HealthState.READY) - 1] is HealthState.WARMING_UP
    if HealthState.FAILED in seen:
        assert seen[-1] is HealthState.FAILED
    # Only engine processes that start again lead back, and only one step.
    cycle = (HealthState.WARMING_UP, HealthState.READY)
    once = [state for state in seen if state not in cycle]
    assert len(set(once)) == len(once)
    assert all(before != after for before, after in itertools.pairwise(seen))
