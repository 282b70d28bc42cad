import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.latency import MAX_CELLS, MAX_MARGIN, LatencyTable
from depth_server.preprocess import Size

SQUARE, WIDE = Size(518, 518), Size(518, 924)


def measured(fixed: float, per_image: float, size: Size = SQUARE) -> LatencyTable:
    table = LatencyTable()
    for count in (1, 2, 4, 8):
        table.calibrate(size, count, fixed + per_image * count)
    return table


def test_measured_cells_are_returned_and_others_follow_the_line() -> None:
    table = measured(0.0013, 0.00305)
    assert table.seconds(SQUARE, 4) == pytest.approx(0.0013 + 4 * 0.00305)
    assert table.seconds(WIDE, 8) == pytest.approx(0.0013 + 8 * 0.00305 * WIDE.work_units)


def test_an_average_follows_what_is_observed() -> None:
    table = measured(0.0, 1.0)
    for _ in range(40):
        table.observe(SQUARE, 1, 3.0)
    assert table.seconds(SQUARE, 1) == pytest.approx(3.0, rel=0.01)
    assert table.seconds(SQUARE, 2) == 2.0


def test_the_margin_covers_95_of_100_and_forgets() -> None:
    table = measured(0.0, 1.0)
    for number in range(60):
        table.observe(SQUARE, 1, 1.5 if number % 10 == 0 else 1.0)
    assert 1.2 < table.margin <= 1.5
    assert table.margined_seconds(SQUARE, 1) == pytest.approx(table.seconds(SQUARE, 1) * table.margin)
    for _ in range(80):
        table.observe(SQUARE, 1, table.seconds(SQUARE, 1))
    assert table.margin == pytest.approx(1.0)


def test_one_hiccup_does_not_dominate() -> None:
    table = measured(0.0, 1.0)
    table.observe(SQUARE, 1, 1000.0)
    assert table.margin == MAX_MARGIN


def test_batches_that_gain_nothing_are_not_useful() -> None:
    assert measured(0.0, 1.0).useful_batch(SQUARE, 8) == 1
    assert measured(2.15, 3.05).useful_batch(SQUARE, 8) == 8
    assert measured(2.15, 3.05).useful_batch(SQUARE, 4) == 4
    assert LatencyTable().useful_batch(SQUARE, 8) == 8


@given(
    st.lists(
        st.tuples(
            st.integers(9, 73), st.integers(9, 73), st.sampled_from([1, 2, 4, 8]), st.floats(1e-6, 1e3), st.booleans()
        ),
        max_size=60,
    )
)
def test_predictions_are_positive_finite_and_grow_with_the_work_of_unseen_sizes(
    cells: list[tuple[int, int, int, float, bool]],
) -> None:
    table = LatencyTable()
    for height, width, count, seconds, observed in cells:
        (table.observe if observed else table.calibrate)(Size(14 * height, 14 * width), count, seconds)
    unseen = [Size(14, 14), Size(14, 28), Size(28, 28), Size(2000, 2000)]
    predictions = [table.seconds(size, 1) for size in unseen]
    assert all(math.isfinite(value) and value > 0 for value in predictions)
    assert predictions == sorted(predictions)
    assert 1 <= table.margin <= MAX_MARGIN


def test_the_table_is_bounded() -> None:
    table = LatencyTable()
    for number in range(MAX_CELLS + 10):
        table.observe(Size(14, 14 * (number + 1)), 1, 1.0)
    assert len(table.cells()) == MAX_CELLS
