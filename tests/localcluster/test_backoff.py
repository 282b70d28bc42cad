from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.node.backoff import RestartBackoff, restarts


def test_series_of_the_kubelet() -> None:
    backoff = RestartBackoff()
    assert [backoff.next_delay(1) for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]


def test_long_run_starts_the_series_again() -> None:
    backoff = RestartBackoff()
    for _ in range(4):
        backoff.next_delay(1)
    assert [backoff.next_delay(600), backoff.next_delay(1)] == [0, 10]


@given(st.floats(0.01, 100), st.floats(100, 1000), st.lists(st.floats(0, 599), max_size=30))
def test_delays_never_fall_and_never_pass_the_cap(base: float, cap: float, runs: list[float]) -> None:
    backoff = RestartBackoff(base=base, cap=cap)
    delays = [backoff.next_delay(ran) for ran in runs]
    assert delays == sorted(delays)
    assert all(delay <= cap for delay in delays)


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_restart_policy(policy: str, code: int, *, expected: bool) -> None:
    assert restarts(policy, code) is expected
