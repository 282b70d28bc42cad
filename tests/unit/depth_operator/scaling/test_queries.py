"""The PromQL texts: which metrics they read and whose."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from depth_operator.scaling import queries
from depth_operator.scaling.types import SIGNAL_NAMES

CONTRACT = Path(__file__).parents[4] / "docs" / "reference" / "contract.md"
SCOPE = queries.Scope("vision", "depth", 60, 45.0)


def contract_metrics() -> set[str]:
    """The names in the first column of the table in section 2."""
    section = CONTRACT.read_text().split("## 2. ", 1)[1].split("\n## ", 1)[0]
    first_cells = re.findall(r"^\|([^|]*)\|", section, flags=re.MULTILINE)
    return {name for cell in first_cells for name in re.findall(r"`(depth_server_\w+)", cell)}


def selected_metrics(query: str) -> set[str]:
    return {name.removesuffix("_bucket") for name in re.findall(r"(\w+)\{", query)}


def test_every_metric_of_the_queries_is_in_the_contract() -> None:
    assert set(queries.METRICS) <= contract_metrics()
    assert selected_metrics(queries.signals_query(SCOPE)) == set(queries.METRICS)


def test_every_selector_is_filtered_by_namespace_and_service() -> None:
    selectors = re.findall(r"depth_server_\w+(\{[^}]*\}|)", queries.signals_query(SCOPE))

    assert len(selectors) >= len(queries.METRICS)
    for selector in selectors:
        assert 'namespace="vision"' in selector
        assert 'service="depth"' in selector


def test_the_query_names_every_signal_once() -> None:
    names = re.findall(r'"signal", "(\w+)"', queries.signals_query(SCOPE))

    assert sorted(names) == sorted([*SIGNAL_NAMES, queries.SAMPLE_AGE])


def test_invalid_requests_are_no_demand() -> None:
    assert queries.offered_rate(SCOPE) == (
        'sum(rate(depth_server_requests_total{namespace="vision",service="depth",outcome!="invalid"}[60s]))'
    )


@given(st.text(max_size=30))
def test_a_label_value_cannot_leave_its_quotes(value: str) -> None:
    escaped = queries.escape_label_value(value)

    assert re.fullmatch(r'(?:[^"\\\n]|\\["\\n])*', escaped, flags=re.DOTALL)
    assert re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], escaped) == value
