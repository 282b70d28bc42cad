"""How a condition changes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from depth_operator.api.conditions import MAX_MESSAGE_LENGTH, Condition, ConditionType, find_condition, set_condition

statuses = st.sampled_from(["True", "False", "Unknown"])
conditions = st.builds(
    Condition,
    type=st.sampled_from(list(ConditionType)),
    status=statuses,
    reason=st.sampled_from(["Available", "Creating", "WarmingUp"]),
    message=st.text(max_size=20),
)


def history(changes: list[Condition]) -> list[list[dict[str, Any]]]:
    states: list[list[dict[str, Any]]] = [[]]
    for second, change in enumerate(changes):
        states.append(set_condition(states[-1], change, generation=second, now=f"2026-01-01T00:00:{second:02}Z"))
    return states


@given(st.lists(conditions, max_size=20))
def test_the_transition_time_moves_exactly_when_the_status_flips(changes: list[Condition]) -> None:
    states = history(changes)
    for before, after, change in zip(states, states[1:], changes, strict=False):
        old, new = find_condition(before, change.type), find_condition(after, change.type)
        assert new is not None
        flipped = old is None or old["status"] != change.status
        assert flipped == (old is None or old["lastTransitionTime"] != new["lastTransitionTime"])


@given(st.lists(conditions, max_size=20))
def test_types_are_unique_and_sorted_and_other_conditions_stay(changes: list[Condition]) -> None:
    states = history(changes)
    for before, after, change in zip(states, states[1:], changes, strict=False):
        types = [item["type"] for item in after]
        assert types == sorted(set(types))
        assert [item for item in after if item["type"] != change.type] == [
            item for item in before if item["type"] != change.type
        ]


@given(conditions)
def test_setting_the_same_again_changes_nothing(condition: Condition) -> None:
    once = set_condition([], condition, generation=1, now="2026-01-01T00:00:00Z")
    assert set_condition(once, condition, generation=1, now="2026-01-01T00:00:59Z") == once


def test_a_long_message_is_cut() -> None:
    condition = Condition(ConditionType.READY, "False", "QuotaExceeded", "x" * (MAX_MESSAGE_LENGTH + 1))
    (item,) = set_condition([], condition, generation=1, now="2026-01-01T00:00:00Z")
    assert len(item["message"]) == MAX_MESSAGE_LENGTH
