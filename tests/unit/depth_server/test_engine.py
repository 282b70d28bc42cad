import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from depth_server.batch_queue import BatchPolicy
from depth_server.engine import CLOSE_TIMEOUT_SECONDS, DepthModel, retry_after
from depth_server.errors import (
    EngineMemoryError,
    EngineStoppedError,
    ForwardError,
    NonFiniteDepthError,
    OverloadedError,
    StartupError,
    StartupReason,
)
from depth_server.thread_engine import ThreadEngine
from tests.unit.depth_server.fake_model import INFO, WAIT_SECONDS, FakeModel

IMAGE = np.ones((3, 14, 28), dtype=np.float32)


class Harness:
    def __init__(self, load: Callable[[], DepthModel], max_waiting: int = 2) -> None:
        self.crashes: list[str] = []
        self.crashed = threading.Event()
        self.loaded: list[str] = []
        self.now = 0.0
        self.engine = ThreadEngine(
            load,
            policy=BatchPolicy(max_waiting=max_waiting),
            max_consecutive_failures=3,
            on_crash=self._on_crash,
            clock=lambda: self.now,
        )

    def _on_crash(self, reason: str) -> None:
        self.crashes.append(reason)
        self.crashed.set()

    def start(self) -> ThreadEngine:
        started = self.engine.start(lambda info: self.loaded.append(info.name))
        assert started.result(WAIT_SECONDS) == INFO
        return self.engine


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def harness(model: FakeModel) -> Iterator[Harness]:
    harness = Harness(lambda: model)
    yield harness
    model.release.set()
    harness.engine.close("the test is over")
    assert not harness.engine.is_running


def test_start_loads_then_warms_up(harness: Harness, model: FakeModel) -> None:
    harness.start()
    assert harness.loaded == [INFO.name]
    assert model.warm_ups == 1


def test_depth_comes_back(harness: Harness) -> None:
    result = harness.start().submit(IMAGE).result(WAIT_SECONDS)
    assert result.depth.shape == (14, 28)
    assert harness.engine.images_finished == 1


def test_full_queue_is_refused_before_any_work(harness: Harness, model: FakeModel) -> None:
    engine = harness.start()
    model.hold()
    first = engine.submit(IMAGE)
    assert model.entered.wait(WAIT_SECONDS)
    waiting = [engine.submit(IMAGE), engine.submit(IMAGE)]
    assert engine.waiting == 2
    with pytest.raises(OverloadedError, match="2 images already wait"):
        engine.submit(IMAGE)
    model.release.set()
    assert all(future.result(WAIT_SECONDS) for future in (first, *waiting))


def test_abandoned_images_cost_nothing_and_leave_the_queue(harness: Harness, model: FakeModel) -> None:
    engine = harness.start()
    model.hold()
    first = engine.submit(IMAGE)
    assert model.entered.wait(WAIT_SECONDS)
    abandoned = [engine.submit(IMAGE), engine.submit(IMAGE)]
    for future in abandoned:
        assert future.cancel()
    assert engine.waiting == 0
    last = engine.submit(IMAGE)
    model.release.set()
    assert last.result(WAIT_SECONDS)
    assert first.result(WAIT_SECONDS)
    assert model.forwarded == 2
    for future in abandoned:
        with pytest.raises(CancelledError):
            future.result(0)


def raising(error: Exception) -> Callable[[NDArray[np.float32]], NoReturn]:
    def behaviour(_: NDArray[np.float32]) -> NoReturn:
        raise error

    return behaviour


def test_one_failure_is_one_requests_failure(harness: Harness, model: FakeModel) -> None:
    engine = harness.start()
    works = model.behaviour
    model.behaviour = raising(RuntimeError("cuDNN"))
    for _ in range(2):
        with pytest.raises(ForwardError, match="RuntimeError"):
            engine.submit(IMAGE).result(WAIT_SECONDS)
    model.behaviour = works
    assert engine.submit(IMAGE).result(WAIT_SECONDS)
    assert harness.crashes == []


def test_repeated_failures_are_a_crash_that_fails_what_waits(harness: Harness, model: FakeModel) -> None:
    engine = harness.start()
    model.behaviour = raising(RuntimeError("an illegal memory access was encountered"))
    for _ in range(2):
        with pytest.raises(ForwardError):
            engine.submit(IMAGE).result(WAIT_SECONDS)
    model.hold()
    third = engine.submit(IMAGE)
    assert model.entered.wait(WAIT_SECONDS)
    waiting = engine.submit(IMAGE)
    model.release.set()
    with pytest.raises(ForwardError):
        third.result(WAIT_SECONDS)
    with pytest.raises(EngineStoppedError, match="crashed"):
        waiting.result(WAIT_SECONDS)
    assert harness.crashed.wait(WAIT_SECONDS)
    assert len(harness.crashes) == 1
    with pytest.raises(EngineStoppedError):
        engine.submit(IMAGE)


def test_death_of_the_worker_fails_the_running_and_the_waiting(harness: Harness, model: FakeModel) -> None:
    engine = harness.start()

    def die(_: NDArray[np.float32]) -> NoReturn:
        raise SystemExit

    model.behaviour = die
    model.hold()
    running = engine.submit(IMAGE)
    assert model.entered.wait(WAIT_SECONDS)
    waiting = engine.submit(IMAGE)
    model.release.set()
    for future in (running, waiting):
        with pytest.raises(EngineStoppedError, match="SystemExit"):
            future.result(WAIT_SECONDS)
    assert harness.crashed.wait(WAIT_SECONDS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_depth_fails_the_request_only(harness: Harness, model: FakeModel, value: float) -> None:
    engine = harness.start()
    model.behaviour = lambda pixels: np.full(pixels.shape[1:], value, dtype=np.float32)
    for _ in range(4):
        with pytest.raises(NonFiniteDepthError):
            engine.submit(IMAGE).result(WAIT_SECONDS)
    assert harness.crashes == []
    assert engine.images_finished == 0


def test_depth_of_the_wrong_shape_is_a_failure(harness: Harness, model: FakeModel) -> None:
    model.behaviour = lambda _: np.zeros((1, 1), dtype=np.float32)
    with pytest.raises(ForwardError):
        harness.start().submit(IMAGE).result(WAIT_SECONDS)


def test_lack_of_memory_never_crashes_the_engine(harness: Harness, model: FakeModel) -> None:
    engine = harness.start()
    model.behaviour = raising(EngineMemoryError("no memory on cuda"))
    for _ in range(4):
        with pytest.raises(EngineMemoryError):
            engine.submit(IMAGE).result(WAIT_SECONDS)
    assert harness.crashes == []


def test_close_fails_what_waits_and_is_no_crash(harness: Harness, model: FakeModel) -> None:
    engine = harness.start()
    model.hold()
    running = engine.submit(IMAGE)
    assert model.entered.wait(WAIT_SECONDS)
    waiting = engine.submit(IMAGE)
    closing = threading.Thread(target=engine.close, args=("the server stops",))
    closing.start()
    for future in (running, waiting):
        with pytest.raises(EngineStoppedError, match="the server stops"):
            future.result(WAIT_SECONDS)
    model.release.set()
    closing.join(WAIT_SECONDS)
    assert not engine.is_running
    assert harness.crashes == []


def test_only_the_first_close_waits_for_a_forward_pass(
    harness: Harness, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = harness.start()
    model.hold()
    engine.submit(IMAGE)
    assert model.entered.wait(WAIT_SECONDS)
    assert engine._thread is not None
    waits: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(engine._thread, "join", waits.append)
        engine.close("the drain is over")
        engine.close("the server stops")
    assert waits == [CLOSE_TIMEOUT_SECONDS]
    model.release.set()
    engine._thread.join(WAIT_SECONDS)
    assert not engine.is_running


def test_load_failure_reaches_whoever_started_it() -> None:
    def load() -> DepthModel:
        raise StartupError(StartupReason.WEIGHTS_NOT_FOUND, "no such file")

    harness = Harness(load)
    with pytest.raises(StartupError, match="no such file"):
        harness.engine.start(lambda _: None).result(WAIT_SECONDS)
    with pytest.raises(EngineStoppedError):
        harness.engine.submit(IMAGE)
    assert harness.crashes == []


def test_busy_time_counts_the_forward_pass_that_runs(harness: Harness, model: FakeModel) -> None:
    engine = harness.start()
    model.hold()
    future = engine.submit(IMAGE)
    assert model.entered.wait(WAIT_SECONDS)
    harness.now = 3.0
    assert engine.busy_seconds() == engine.current_forward_seconds() == 3.0
    queued = engine.submit(IMAGE)
    harness.now = 5.0
    model.release.set()
    assert future.result(WAIT_SECONDS).forward_seconds == 5.0
    result = queued.result(WAIT_SECONDS)
    assert (result.queue_seconds, result.forward_seconds) == (2.0, 0.0)
    assert engine.busy_seconds() == 5.0
    assert engine.current_forward_seconds() == 0.0


def test_gpu_time_is_absent_until_measured(harness: Harness, model: FakeModel) -> None:
    engine = harness.start()
    engine.submit(IMAGE).result(WAIT_SECONDS)
    assert engine.gpu_busy_seconds() is None
    model.gpu_seconds = 0.25
    for _ in range(2):
        engine.submit(IMAGE).result(WAIT_SECONDS)
    assert engine.gpu_busy_seconds() == 0.5


def test_retry_after_is_between_a_second_and_a_minute() -> None:
    assert [retry_after(seconds) for seconds in (0.0, 0.2, 2.1, 1e9)] == [1, 1, 3, 60]
