"""Properties of the planner: bounds, order, work conservation, and that only what cannot be in time is dropped."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from depth_server.batching import (
    BATCH_SIZES,
    BatchPlan,
    Entry,
    Lane,
    make_entry,
    plan_batch,
    queued_seconds,
    round_down,
)
from depth_server.preprocess import Size

SIZES = (Size(14, 14), Size(14, 28), Size(28, 28))
TIMES = st.integers(0, 60).map(float)


def seconds(bucket: Size, count: int) -> float:
    return 1.0 + bucket.pixels / 196 * count


def limit(bucket: Size) -> int:
    return 8 if bucket is not SIZES[2] else 2


@st.composite
def waiting(draw: st.DrawFn, max_size: int = 24) -> list[Entry]:
    entries = []
    for key in range(draw(st.integers(0, max_size))):
        arrival = draw(TIMES) - 60
        patience = draw(st.none() | TIMES)
        entries.append(
            make_entry(
                key,
                draw(st.sampled_from(SIZES)),
                draw(st.sampled_from(list(Lane))),
                now=arrival,
                deadline=None if patience is None else arrival + patience,
                slo=draw(st.sampled_from([1.0, 10.0, 60.0])),
                ageing=90.0,
            )
        )
    return entries


def plan(entries: Sequence[Entry], start: float = 0.0) -> BatchPlan:
    return plan_batch(entries, start, seconds, limit)


def by_queue(entries: Sequence[Entry]) -> Counter[tuple[Size, Lane]]:
    return Counter((entry.bucket, entry.lane) for entry in entries)


@given(waiting())
def test_the_plan_takes_each_image_at_most_once_and_loses_none(entries: list[Entry]) -> None:
    made = plan(entries)
    keys = [entry.key for entry in (*made.batch, *made.shed, *made.expired)]
    assert len(keys) == len(set(keys))
    assert set(keys) <= {entry.key for entry in entries}


@given(waiting())
def test_a_batch_has_one_size_one_lane_an_allowed_count_and_order(entries: list[Entry]) -> None:
    batch = plan(entries).batch
    if not batch:
        return
    assert len(by_queue(batch)) == 1
    assert len(batch) in BATCH_SIZES
    assert len(batch) <= limit(batch[0].bucket)
    assert list(batch) == sorted(batch, key=lambda entry: entry.urgency)


@given(waiting())
def test_the_engine_is_idle_only_if_nobody_can_be_in_time(entries: list[Entry]) -> None:
    made = plan(entries)
    possible = [entry for entry in entries if seconds(entry.bucket, 1) <= entry.deadline]
    assert bool(made.batch) == bool(possible)


@given(waiting())
def test_what_runs_meets_its_deadline(entries: list[Entry]) -> None:
    batch = plan(entries).batch
    assert all(seconds(entry.bucket, len(batch)) <= entry.deadline for entry in batch)


@given(waiting())
def test_the_most_urgent_image_that_can_be_in_time_chooses_the_queue(entries: list[Entry]) -> None:
    made = plan(entries)
    possible = [entry for entry in entries if seconds(entry.bucket, 1) <= entry.deadline]
    timely = [e for e in possible if e.lane is Lane.JOB or seconds(e.bucket, 1) <= e.due]
    people_in_time = any(entry.lane is Lane.INTERACTIVE for entry in timely)
    candidates = timely if people_in_time else possible
    if candidates:
        head = min(candidates, key=lambda entry: entry.urgency)
        assert (made.batch[0].bucket, made.batch[0].lane) == (head.bucket, head.lane)
        dropped = {entry.key for entry in (*made.shed, *made.expired)}
        assert head.key in dropped or made.batch[0] == head


@given(waiting())
def test_the_batch_is_as_large_as_it_can_be_unless_a_deadline_forbids(entries: list[Entry]) -> None:
    made = plan(entries)
    if not made.batch:
        return
    dropped = {entry.key for entry in (*made.shed, *made.expired)}
    head = made.batch[0]
    queue = sorted(
        (
            entry
            for entry in entries
            if entry.key not in dropped and (entry.bucket, entry.lane) == (head.bucket, head.lane)
        ),
        key=lambda entry: entry.urgency,
    )
    most = round_down(len(queue), limit(head.bucket))
    if len(made.batch) < most:
        late = [entry for entry in queue[:most] if min(entry.due, entry.deadline) < seconds(head.bucket, most)]
        assert late


@given(waiting())
def test_only_what_cannot_be_in_time_is_dropped(entries: list[Entry]) -> None:
    made = plan(entries)
    for entry in made.expired:
        size = max(len(made.batch), 1)
        alone = seconds(entry.bucket, 1) > entry.deadline
        # Or the batch that others need would be too long for it.
        crowded = any((other.bucket, other.lane) == (entry.bucket, entry.lane) for other in made.batch)
        assert alone or (crowded and seconds(entry.bucket, BATCH_SIZES[0]) > entry.deadline), size
    for entry in made.shed:
        assert entry.lane is Lane.INTERACTIVE
        assert any(other.lane is Lane.INTERACTIVE for other in entries if other is not entry)
        assert seconds(entry.bucket, 8) > entry.due


@given(waiting())
def test_nothing_is_dropped_where_nobody_has_a_limit(entries: list[Entry]) -> None:
    patient = [Entry(e.key, e.bucket, e.lane, e.arrival, due=1000.0 + e.due) for e in entries]
    made = plan(patient)
    assert not made.shed
    assert not made.expired


def schedules(count: int, most: int) -> Iterator[list[int]]:
    """Yield every way to serve `count` images in their order in batches of allowed sizes."""
    if not count:
        yield []
    for size in BATCH_SIZES:
        if size <= min(count, most):
            for rest in schedules(count - size, most):
                yield [size, *rest]


def keeps_all(queue: Sequence[Entry], sizes: Sequence[int]) -> bool:
    ends = itertools.accumulate(seconds(queue[0].bucket, size) for size in sizes)
    ends_of_images = [end for end, size in zip(ends, sizes, strict=True) for _ in range(size)]
    return all(end <= entry.deadline for end, entry in zip(ends_of_images, queue, strict=True))


@given(st.lists(st.integers(2, 30).map(float), min_size=1, max_size=7))
def test_one_queue_that_the_largest_batches_can_serve_loses_nobody(deadlines: list[float]) -> None:
    queue = [Entry(key, SIZES[0], Lane.INTERACTIVE, 0.0, due, due) for key, due in enumerate(sorted(deadlines))]
    greedy = next(schedules(len(queue), 8))
    assume(keeps_all(queue, greedy))
    made = plan(queue)
    assert not made.expired
    assert len(made.batch) == greedy[0]


@given(st.lists(st.integers(2, 30).map(float), min_size=1, max_size=7))
def test_a_drop_is_for_the_good_of_others(deadlines: list[float]) -> None:
    """Where someone is dropped, no schedule of at most two batches would have kept everybody."""
    queue = [Entry(key, SIZES[0], Lane.INTERACTIVE, 0.0, due, due) for key, due in enumerate(sorted(deadlines))]
    made = plan(queue)
    if made.expired:
        assert not any(keeps_all(queue, sizes) for sizes in schedules(len(queue), 8) if len(sizes) <= 2)


@given(st.integers(0, 40), st.sampled_from([0.5, 2.0, 5.0]))
def test_no_job_starves(interval: int, spacing: float) -> None:
    """Interactive images for ever, faster than they can be served: the job is served when it is due."""
    job = make_entry(-1, SIZES[0], Lane.JOB, now=0.0, deadline=None, slo=10, ageing=30)
    queue, now, key = [job], 0.0, 0
    arrived = 0.0
    while job in queue:
        while arrived <= now:
            queue.append(
                make_entry(key, SIZES[key % 2], Lane.INTERACTIVE, now=arrived, deadline=None, slo=10, ageing=30)
            )
            key += 1
            arrived += spacing + interval / 100
        made = plan_batch(queue, now, seconds, limit)
        gone = {entry.key for entry in (*made.batch, *made.shed, *made.expired)}
        queue = [entry for entry in queue if entry.key not in gone]
        if job in made.batch:
            break
        now += seconds(made.batch[0].bucket, len(made.batch))
    # Due at 30 s; at most one batch of 8 of the larger size is running then, and due times before it may be left.
    assert now <= 30 + 10 + seconds(SIZES[1], 8)


def test_a_deadline_of_a_job_does_not_raise_its_priority() -> None:
    job = make_entry(0, SIZES[0], Lane.JOB, now=0, deadline=3.0, slo=10, ageing=30)
    person = make_entry(1, SIZES[0], Lane.INTERACTIVE, now=1, deadline=None, slo=10, ageing=30)
    assert plan([job, person]).batch == (person,)


@pytest.mark.parametrize(("count", "most", "expected"), [(1, 8, 1), (3, 8, 2), (7, 4, 4), (100, 8, 8), (5, 1, 1)])
def test_counts_are_rounded_down(count: int, most: int, expected: int) -> None:
    assert round_down(count, most) == expected


@given(st.integers(0, 50), st.sampled_from(SIZES))
def test_queued_time_is_that_of_the_batches_that_will_run(count: int, bucket: Size) -> None:
    queue = [Entry(key, bucket, Lane.JOB, 0.0, 0.0) for key in range(count)]
    total = 0.0
    while queue:
        batch = plan(queue).batch
        total += seconds(bucket, len(batch))
        queue = queue[len(batch) :]
    assert math.isclose(queued_seconds(Counter({(bucket, Lane.JOB): count}), seconds, limit), total)
