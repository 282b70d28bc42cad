"""The engine on a virtual clock: a model of known latency moves the time, and arrivals happen while it runs."""

import heapq
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from depth_server.batch_queue import BatchPolicy, OverloadPolicy
from depth_server.batching import Lane
from depth_server.engine import EngineResult, Forwarded, ModelInfo
from depth_server.errors import (
    DeadlineExceededError,
    DroppedError,
    EngineMemoryError,
    EngineStoppedError,
    ForwardError,
    NonFiniteDepthError,
    OverloadedError,
)
from depth_server.fake import FakeDepthModel
from depth_server.preprocess import Size
from depth_server.thread_engine import ThreadEngine

SQUARE, WIDE = (14, 14), (14, 28)
FIXED, PER_IMAGE = 1.0, 1.0


class World:
    """A clock that delivers arrivals when their time has come."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, len(self._events), event))

    def sleep(self, seconds: float) -> None:
        self._advance_to(self.now + seconds)

    def next_arrival(self) -> bool:
        if not self._events:
            return False
        self._advance_to(max(self._events[0][0], self.now))
        return True

    def _advance_to(self, time: float) -> None:
        while self._events and self._events[0][0] <= time:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = time


class Model(FakeDepthModel):
    """Remembers its batches: when each began, its size and its images' first pixels."""

    def __init__(self, world: World) -> None:
        super().__init__(FIXED, PER_IMAGE, world.sleep)
        self.world = world
        self.batches: list[tuple[float, list[float]]] = []
        self.failures: list[Exception] = []
        self.most = math.inf

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        self.batches.append((self.world.now, [float(image[0, 0, 0]) for image in pixel_values]))
        if len(pixel_values) > self.most:
            message = "no memory"
            raise EngineMemoryError(message)
        if self.failures:
            raise self.failures.pop(0)
        return super().forward(pixel_values)

    @property
    def sizes(self) -> list[int]:
        return [len(images) for _, images in self.batches]


class Bench:
    """An engine without its thread: `run` does what the thread does, until nothing waits and nothing will come."""

    def __init__(self, **policy: object) -> None:
        self.world = World()
        self.model = Model(self.world)
        self.crashes: list[str] = []
        self.engine = ThreadEngine(
            lambda: self.model,
            policy=BatchPolicy(**policy),  # type: ignore[arg-type]  # the keywords of BatchPolicy
            max_consecutive_failures=3,
            on_crash=self.crashes.append,
            clock=lambda: self.world.now,
        )
        for size in (1, 2, 4, 8):
            for height, width in (SQUARE, WIDE):
                self.engine._queue.latency.calibrate(Size(height, width), size, FIXED + PER_IMAGE * size)

    def submit(
        self,
        value: float,
        shape: tuple[int, int] = SQUARE,
        deadline: float | None = None,
        lane: Lane = Lane.INTERACTIVE,
    ) -> Future[EngineResult]:
        pixels = np.full((3, *shape), value, dtype=np.float32)
        return self.engine.submit(pixels, deadline=deadline, lane=lane)

    def run(self) -> None:
        while True:
            if self.engine._begin_next():
                self.engine._serve(self.model)
            elif not self.world.next_arrival():
                return


def values(futures: Sequence[Future[EngineResult]]) -> list[float]:
    return [float(future.result(timeout=0).depth[0, 0]) for future in futures]


def test_an_idle_engine_does_not_wait_for_company() -> None:
    bench = Bench()
    first = bench.submit(1)
    later: list[Future[EngineResult]] = []
    bench.world.at(0.5, lambda: later.append(bench.submit(2)))
    bench.run()
    assert bench.model.batches == [(0.0, [1.0]), (2.0, [2.0])]
    assert first.result(0).queue_seconds == 0.0
    assert later[0].result(0).queue_seconds == 1.5
    assert first.result(0).forward_seconds == 2.0


def test_what_came_while_the_engine_was_busy_becomes_one_batch_of_an_allowed_size() -> None:
    bench = Bench()
    futures = [bench.submit(0)]
    for value in range(1, 8):
        bench.world.at(1.0, lambda value=float(value): futures.append(bench.submit(value)))
    bench.run()
    assert bench.model.sizes == [1, 4, 2, 1]
    assert values(futures) == [float(value) for value in range(8)]
    assert [future.result(0).batch_size for future in futures] == [1, 4, 4, 4, 4, 2, 2, 1]


def test_sizes_are_not_mixed_and_the_oldest_size_goes_first() -> None:
    bench = Bench()
    futures = [bench.submit(1, WIDE), bench.submit(2), bench.submit(3, WIDE), bench.submit(4)]
    bench.run()
    assert [images for _, images in bench.model.batches] == [[1.0, 3.0], [2.0, 4.0]]
    assert values(futures) == [1.0, 2.0, 3.0, 4.0]
    assert futures[0].result(0).depth.shape == WIDE


def test_jobs_wait_for_interactive_images_until_they_have_aged() -> None:
    bench = Bench(slo_seconds=10, job_ageing_seconds=30, max_batch_size=1)
    job = bench.submit(100, lane=Lane.JOB)
    stream: list[Future[EngineResult]] = []
    for number in range(30):
        bench.world.at(2.0 * number, lambda number=number: stream.append(bench.submit(number)))
    bench.world.next_arrival()
    bench.run()
    order = [images[0] for _, images in bench.model.batches]
    began = next(start for start, images in bench.model.batches if images == [100.0])
    assert order.index(100.0) > 5
    # An interactive image that arrives at t is due at t + 10; the job was due at 30.
    assert began <= 30
    assert job.done()


def test_an_abandoned_request_costs_no_forward_pass() -> None:
    bench = Bench()
    futures = [bench.submit(value) for value in range(3)]
    assert bench.engine.waiting == 3
    futures[1].cancel()
    assert bench.engine.waiting == 2
    bench.run()
    assert bench.model.batches == [(0.0, [0.0, 2.0])]


def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_one_that_was_missed_is_not_computed() -> None:
    bench = Bench(max_batch_size=1)
    with pytest.raises(DeadlineExceededError):
        bench.submit(0, deadline=1.9)
    first, second = bench.submit(1, deadline=2.5), bench.submit(2, deadline=3.0)
    bench.run()
    assert first.result(0)
    assert isinstance(second.exception(0), DeadlineExceededError)
    assert bench.model.sizes == [1]


def test_a_batch_is_shrunk_for_a_tight_deadline_if_nobody_pays_for_it() -> None:
    bench = Bench()
    tight = bench.submit(1, deadline=2.5)
    others = [bench.submit(2, deadline=20.0), bench.submit(3, deadline=20.0), bench.submit(4, deadline=20.0)]
    bench.run()
    assert bench.model.sizes == [1, 2, 1]
    assert values([tight, *others]) == [1.0, 2.0, 3.0, 4.0]


def test_under_overload_one_tight_deadline_does_not_cost_the_others_theirs() -> None:
    bench = Bench()
    tight = bench.submit(1, deadline=2.5)
    # As one batch of 8 they make it: 9 s. After a batch of one for the first they would not.
    others = [bench.submit(value, deadline=9.5) for value in range(2, 10)]
    bench.run()
    assert isinstance(tight.exception(0), DeadlineExceededError)
    assert bench.model.sizes == [8]
    assert len(values(others)) == 8


def test_late_images_give_way_to_those_in_time_but_are_served_by_an_idle_engine() -> None:
    bench = Bench(slo_seconds=5, max_batch_size=1)
    futures = [bench.submit(value) for value in range(6)]
    bench.world.at(9.0, lambda: futures.append(bench.submit(6)))
    bench.run()
    # 0 and 1 are in time. At 4 s all others are late, and nothing else wants the engine: 2, 3 and 4 are served. At 10 s
    # the newcomer can still be in time, so 5 gives way.
    assert [images for _, images in bench.model.batches] == [[0.0], [1.0], [2.0], [3.0], [4.0], [6.0]]
    assert isinstance(futures[5].exception(0), DroppedError)


def test_an_slo_below_the_service_time_still_serves() -> None:
    bench = Bench(slo_seconds=0.1)
    futures = [bench.submit(value) for value in range(4)]
    bench.run()
    assert values(futures) == [0.0, 1.0, 2.0, 3.0]


def test_the_newest_frame_takes_the_place_of_the_oldest() -> None:
    bench = Bench(slo_seconds=5, max_batch_size=1, overload=OverloadPolicy.DROP_OLDEST)
    futures = [bench.submit(value) for value in range(4)]
    assert isinstance(futures[0].exception(0), DroppedError)
    assert isinstance(futures[1].exception(0), DroppedError)
    bench.run()
    assert values(futures[2:]) == [2.0, 3.0]


def test_out_of_memory_halves_the_batch_and_limits_later_ones_of_that_size_only() -> None:
    bench = Bench()
    bench.model.most = 4
    futures = [bench.submit(value) for value in range(16)]
    bench.run()
    assert bench.model.sizes == [8, 4, 4, 4, 4]
    assert values(futures) == [float(value) for value in range(16)]
    assert bench.engine.batch_limit(Size(*SQUARE)) == 4
    assert bench.engine.batch_limit(Size(*WIDE)) == 8


def test_halves_without_memory_are_refused_after_one_retry() -> None:
    bench = Bench()
    bench.model.most = 1
    futures = [bench.submit(value) for value in range(8)]
    bench.run()
    assert bench.model.sizes == [8, 4, 4]
    assert all(isinstance(future.exception(0), EngineMemoryError) for future in futures)
    assert bench.engine.batch_limit(Size(*SQUARE)) == 2
    assert not bench.crashes


def test_only_the_image_without_finite_depth_fails() -> None:
    bench = Bench()
    futures = [bench.submit(1), bench.submit(math.nan)]
    bench.run()
    assert values(futures[:1]) == [1.0]
    assert isinstance(futures[1].exception(0), NonFiniteDepthError)


def test_repeated_device_errors_make_the_engine_give_up() -> None:
    bench = Bench(max_batch_size=1)
    bench.model.failures = [RuntimeError("CUDA error: unspecified launch failure") for _ in range(3)]
    futures = [bench.submit(value) for value in range(5)]
    with pytest.raises(ForwardError, match="3 forward passes failed one after another"):
        bench.run()
    assert all(isinstance(future.exception(0), ForwardError) for future in futures[:3])


def test_a_success_between_errors_keeps_the_engine() -> None:
    bench = Bench(max_batch_size=1)
    for value in range(6):
        future = bench.submit(value)
        bench.model.failures = [RuntimeError("once")] if value % 3 else []
        bench.run()
        assert future.done()
    assert not bench.crashes


def test_close_fails_what_waits() -> None:
    bench = Bench()
    future = bench.submit(1)
    bench.engine.close("the server stops")
    assert isinstance(future.exception(0), EngineStoppedError)
    with pytest.raises(EngineStoppedError, match="the server stops"):
        bench.submit(2)


def test_the_queue_is_bounded_in_number_and_in_memory() -> None:
    bench = Bench(max_waiting=3)
    for value in range(3):
        bench.submit(value)
    with pytest.raises(OverloadedError, match="3 images already wait"):
        bench.submit(3)
    unit = Size(*SQUARE).work_units
    bench = Bench(max_work_units=2.5 * unit)
    futures = [bench.submit(1), bench.submit(2)]
    with pytest.raises(OverloadedError, match="all the memory"):
        bench.submit(3)
    futures[0].cancel()
    bench.submit(3)


def test_the_forecast_is_kept_when_nothing_else_comes() -> None:
    bench = Bench()
    for value in range(11):
        bench.submit(value)
    forecast = bench.engine.forecast(Size(*SQUARE))
    # A batch of 8, then one of 4 with the newcomer; one of 8 if four more come.
    assert forecast.wait_seconds == pytest.approx(9)
    assert forecast.finish_seconds == pytest.approx(9 + 5)
    assert forecast.latest_finish_seconds == pytest.approx(9 + 9)
    assert forecast.image_seconds == pytest.approx(9 / 8)
    newcomer = bench.submit(11)
    newcomer.add_done_callback(lambda _: finished.append(bench.world.now))
    finished: list[float] = []
    bench.run()
    assert finished == [pytest.approx(9 + 5)]


def test_calibration_finds_no_use_for_batches_where_they_gain_nothing() -> None:
    world = World()
    model = FakeDepthModel(0.0, 1.0, world.sleep)
    engine = ThreadEngine(
        lambda: model,
        policy=BatchPolicy(warm_up_sizes=(Size(14, 14), Size(14, 28)), warm_up_seconds=1000),
        max_consecutive_failures=3,
        on_crash=lambda _: None,
        clock=lambda: world.now,
    )
    engine._calibrate(model)
    assert engine.batch_limit(Size(14, 14)) == 1
    assert engine.batch_limit(Size(14, 28)) == 1
    gaining = FakeDepthModel(1.0, 1.0, world.sleep)
    engine._queue.latency = type(engine._queue.latency)()
    engine._calibrate(gaining)
    assert engine.batch_limit(Size(14, 14)) == 8
    assert {(cell.batch_size, cell.seconds) for cell in engine.latency_cells()} == {(1, 2), (2, 3), (4, 5), (8, 9)}


class PipelinedFake(Model):
    """Begins to compute at `launch` and is waited for by the result."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.log: list[str] = []

    def stage(self, images: Sequence[NDArray[np.float32]]) -> object:
        self.log.append(f"stage {len(images)}")
        return np.stack(images)

    def launch(self, staged: object) -> Callable[[], Forwarded]:
        assert isinstance(staged, np.ndarray)
        self.log.append(f"launch {len(staged)}")

        def finish() -> Forwarded:
            self.log.append(f"finish {len(staged)}")
            return self.forward(staged)

        return finish


def test_a_full_batch_is_prefetched_while_the_device_computes_and_a_partial_one_is_not() -> None:
    bench = Bench(max_batch_size=2)
    bench.model = PipelinedFake(bench.world)
    futures = [bench.submit(value) for value in range(5)]
    bench.run()
    assert bench.model.log == [
        "stage 2", "launch 2", "stage 2", "finish 2",
        "launch 2", "finish 2",
        "stage 1", "launch 1", "finish 1",
    ]  # fmt: skip
    assert values(futures) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_closing_fails_the_prefetched_batch_too() -> None:
    bench = Bench(max_batch_size=1)
    bench.model = PipelinedFake(bench.world)
    futures = [bench.submit(value) for value in range(3)]
    bench.world.at(1.0, lambda: bench.engine.close("the server stops"))
    bench.run()
    assert all(isinstance(future.exception(0), EngineStoppedError) for future in futures)


def test_the_thread_starts_serves_and_stops() -> None:
    loaded: list[ModelInfo] = []
    engine = ThreadEngine(
        lambda: FakeDepthModel(0.0, 0.0),
        policy=BatchPolicy(warm_up_sizes=(Size(14, 14),)),
        max_consecutive_failures=3,
        on_crash=lambda _: None,
    )
    info = engine.start(loaded.append).result(timeout=30)
    assert loaded == [info]
    futures = [engine.submit(np.full((3, 14, 14), value, dtype=np.float32)) for value in range(5)]
    assert [float(future.result(timeout=30).depth[0, 0]) for future in futures] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert engine.images_finished == 5
    engine.close("done")
    assert not engine.is_running


@settings(deadline=None, max_examples=200)
@given(
    arrivals=st.lists(
        st.tuples(
            st.floats(0, 40),
            st.sampled_from([SQUARE, WIDE]),
            st.sampled_from(list(Lane)),
            st.none() | st.floats(0.5, 30),
            st.booleans(),
        ),
        max_size=40,
    ),
    policy=st.sampled_from(list(OverloadPolicy)),
)
def test_every_future_is_resolved_and_no_deadline_is_missed(
    arrivals: list[tuple[float, tuple[int, int], Lane, float | None, bool]], policy: OverloadPolicy
) -> None:
    bench = Bench(slo_seconds=8, job_ageing_seconds=20, max_waiting=10, overload=policy)
    futures: list[tuple[Future[EngineResult], float | None, float]] = []

    def arrive(shape: tuple[int, int], lane: Lane, patience: float | None, cancelled: bool) -> None:
        deadline = None if patience is None else bench.world.now + patience
        try:
            future = bench.submit(len(futures), shape, deadline, lane)
        except (OverloadedError, DeadlineExceededError):
            return
        finished: list[float] = []
        future.add_done_callback(lambda _: finished.append(bench.world.now))
        if cancelled:
            future.cancel()
        futures.append((future, deadline, bench.world.now))

    for time, *rest in arrivals:
        bench.world.at(time, lambda rest=rest: arrive(*rest))
    bench.run()
    assert all(future.done() for future, _, _ in futures)
    assert set(bench.model.sizes) <= {1, 2, 4, 8}
    for future, deadline, arrived in futures:
        if future.cancelled() or future.exception(0) is not None:
            continue
        result = future.result(0)
        finished = arrived + result.queue_seconds + result.forward_seconds
        assert deadline is None or finished <= deadline + 1e-9
