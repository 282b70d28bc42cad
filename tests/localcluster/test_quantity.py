from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.node.quantity import in_units, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"),
        ("1.5", "1.5"),
        ("250m", "0.25"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("2e3", "2000"),
        ("1E", "1000000000000000000"),
        (".5", "0.5"),
        ("100u", "0.0001"),
    ],
)
def test_values(text: str, value: str) -> None:
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1gi", "1KiB", "--1", "1e", "Mi"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no resource quantity"):
        parse_quantity(text)


@given(st.integers(0, 10**9), st.sampled_from(["1", "1m", "1Ki", "1Mi", "1G"]))
def test_units_are_rounded_up(count: int, divisor: str) -> None:
    units = in_units(str(count), divisor)
    unit = parse_quantity(divisor)
    assert (units - 1) * unit < count <= units * unit


def test_divisor_zero_means_one() -> None:
    assert in_units("7", "0") == 7
