from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_operator.metrics_api.selector import SelectorError, parse_selector

LABELS = {"app": "depth", "tier": "gpu", "example.com/zone": ""}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("  ", True),
        ("app=depth", True),
        ("app = depth , tier==gpu", True),
        ("app=depth,tier=cpu", False),
        ("app!=other", True),
        ("missing!=x", True),
        ("app in (depth, other)", True),
        ("app in (other)", False),
        ("app notin (other)", True),
        ("missing notin (other)", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("! app", False),
        ("example.com/zone=", True),
        ("example.com/zone in (,a)", True),
        ("app in (depth),tier notin (cpu),!missing", True),
    ],
)
def test_selectors_of_kubernetes(text: str, selected: bool) -> None:
    assert parse_selector(text).matches(LABELS) is selected


@pytest.mark.parametrize(
    "text",
    [",", "a=b,", "a==b==c", "a in b", "a in (b", "a (b)", "=b", "-a=b", "a=b c", "a=b;c", "a in (b c)", "a" * 5000],
)
def test_what_is_no_selector(text: str) -> None:
    with pytest.raises(SelectorError):
        parse_selector(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [("a=x", {"x"}), ("a in (x,y)", {"x", "y"}), ("a in (x,y),a=y", {"y"}), ("a!=x", None), ("b=x", None), ("", None)],
)
def test_which_values_are_asked_for_by_name(text: str, named: set[str] | None) -> None:
    assert parse_selector(text).named("a") == named


@given(st.text(max_size=200))
def test_any_text_is_a_selector_or_refused(text: str) -> None:
    with contextlib.suppress(SelectorError):
        parse_selector(text)
