"""Two real engine processes: least loaded first, death in mid-batch, restart, hanging, draining."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import psutil
import pytest

from depth_server.batch_queue import BatchPolicy
from depth_server.batching import Lane
from depth_server.engine import EngineResult, ModelInfo
from depth_server.engine_handle import EngineProcessSpec
from depth_server.engine_pool import EnginePool
from depth_server.errors import DeadlineExceededError, EngineStoppedError, OverloadedError, StartupError, StartupReason
from depth_server.preprocess import Size
from tests.server.engine_loaders import BREAK, HANG, POISON

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0


class Listener:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.progress: list[str] = []
        self.changed = threading.Condition()

    def on_progress(self, detail: str) -> None:
        self.progress.append(detail)

    def on_available(self) -> None:
        self._note("available")

    def on_unavailable(self, reason: str) -> None:
        self._note(f"unavailable: {reason}")

    def on_crash(self, reason: str) -> None:
        self._note(f"crash: {reason}")

    def _note(self, event: str) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait_for(self, start: str) -> str:
        with self.changed:
            assert self.changed.wait_for(lambda: self._find(start), TIMEOUT), self.events
        return self._find(start)

    def _find(self, start: str) -> str:
        return next((event for event in self.events if event.startswith(start)), "")


class Pools:
    def __init__(self) -> None:
        self.listener = Listener()
        self.made: list[EnginePool] = []

    def make(self, processes: int = 2, loader: str = "fragile", **spec: float) -> EnginePool:
        environment = {"PYTHONPATH": f"{ROOT / 'inference_server'}:{ROOT}", "PYTHONSAFEPATH": "1"}
        pool = EnginePool(
            EngineProcessSpec(
                environments=(environment,) * processes,
                policy=BatchPolicy(max_batch_size=1, warm_up_sizes=(Size(14, 14),)),
                pixels_bytes=4 * 1024**2,
                loader=f"tests.server.engine_loaders:{loader}",
                **{"restart_seconds": 0.05, **spec},  # type: ignore[arg-type]  # the numbers of the spec
            ),
            self.listener,
        )
        self.made.append(pool)
        return pool

    def start(self, processes: int = 2, **options: object) -> EnginePool:
        pool = self.make(processes, **options)  # type: ignore[arg-type]  # passed on
        pool.start(lambda _: None).result(TIMEOUT)
        return pool


@pytest.fixture
def pools() -> Iterator[Pools]:
    made = Pools()
    yield made
    for pool in made.made:
        pool.close("the test is over")
    # A server that other tests share is a child as well.
    assert not [child for child in psutil.Process().children() if "depth_server.engine_process" in child.cmdline()]


def image(value: float, width: int = 14) -> np.ndarray:
    return np.full((3, 14, width), value, dtype=np.float32)


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def values(futures: list[Future[EngineResult]]) -> list[float]:
    return [float(future.result(TIMEOUT).depth[0, 0]) for future in futures]


def test_both_processes_serve_and_every_image_gets_its_own_depth(pools: Pools) -> None:
    loaded: list[ModelInfo] = []
    pool = pools.make()
    info = pool.start(loaded.append).result(TIMEOUT)
    assert loaded == [info]
    assert info.name == "fake"
    assert pools.listener.progress == ["a fragile model is made"] * 2
    futures = [pool.submit(image(value, 14 * (1 + value % 3))) for value in range(20)]
    assert values(futures) == [float(value) for value in range(20)]
    assert futures[2].result().depth.shape == (14, 42)
    assert pool.images_finished == 20
    # Half of 20 passes of 20 ms each.
    wait_until(lambda: pool.busy_seconds() >= 0.2)
    assert pool.forecast(Size(14, 14)).wait_seconds == 0.0


def test_the_least_loaded_process_gets_the_next_image(pools: Pools) -> None:
    pool = pools.start()
    hanging = pool.submit(image(HANG))
    assert values([pool.submit(image(1))]) == [1.0]
    assert values([pool.submit(image(2))]) == [2.0]
    assert not hanging.done()
    assert sorted(len(handle.pending) for handle in pool._handles) == [0, 1]
    assert pool.forecast(Size(14, 14)).wait_seconds == 0.0


def test_a_killed_process_fails_what_it_held_and_nothing_else_and_comes_back(pools: Pools) -> None:
    pool = pools.start()
    before = pool.process_ids()
    blocked = pool.submit(image(HANG))
    victim = next(handle for handle in pool._handles if handle.pending)
    fine = pool.submit(image(1))
    assert victim.run
    os.kill(victim.run.process.pid, signal.SIGKILL)
    with pytest.raises(EngineStoppedError, match="ended by signal 9; send the request again"):
        blocked.result(TIMEOUT)
    assert values([fine]) == [1.0]
    assert values([pool.submit(image(value)) for value in range(4)]) == [0.0, 1.0, 2.0, 3.0]
    wait_until(lambda: len(pool._ready()) == 2)
    after = pool.process_ids()
    assert [old != new for old, new in zip(before, after, strict=True)] == [
        handle is victim for handle in pool._handles
    ]
    assert values([pool.submit(image(value)) for value in range(8)]) == [float(value) for value in range(8)]
    # One process was always there.
    assert pools.listener.events == []
    assert all(handle.slots.free_bytes == handle.slots.capacity for handle in pool._handles)


def test_an_image_that_kills_its_process_costs_one_process_only(pools: Pools) -> None:
    pool = pools.start()
    poisoned = pool.submit(image(POISON))
    with pytest.raises(EngineStoppedError):
        poisoned.result(TIMEOUT)
    assert values([pool.submit(image(7))]) == [7.0]


def test_readiness_follows_the_only_process(pools: Pools) -> None:
    pool = pools.start(processes=1)
    poisoned = pool.submit(image(POISON))
    with pytest.raises(EngineStoppedError):
        poisoned.result(TIMEOUT)
    assert "signal 9; it starts again in 0.05 s" in pools.listener.wait_for("unavailable")
    pools.listener.wait_for("available")
    assert values([pool.submit(image(1))]) == [1.0]


def test_repeated_device_errors_end_the_process_and_a_new_one_takes_over(pools: Pools) -> None:
    pool = pools.start(processes=1, max_consecutive_failures=2)
    for _ in range(2):
        assert pool.submit(image(BREAK)).exception(TIMEOUT) is not None
    pools.listener.wait_for("unavailable")
    pools.listener.wait_for("available")
    assert values([pool.submit(image(1))]) == [1.0]


def test_a_forward_pass_that_never_ends_costs_the_process_its_life(pools: Pools) -> None:
    pool = pools.start(processes=1, max_forward_seconds=0.1)
    hanging = pool.submit(image(HANG))
    with pytest.raises(EngineStoppedError, match=r"a forward pass took more than 0\.1 s"):
        hanging.result(TIMEOUT)
    pools.listener.wait_for("available")


def test_a_process_that_keeps_dying_is_given_up(pools: Pools) -> None:
    pool = pools.start(processes=1, max_restarts=1)
    assert pool.submit(image(POISON)).exception(TIMEOUT) is not None
    pools.listener.wait_for("available")
    assert pool.submit(image(POISON)).exception(TIMEOUT) is not None
    assert "after 1 restarts" in pools.listener.wait_for("crash")
    with pytest.raises(EngineStoppedError):
        pool.submit(image(1))


def test_a_model_that_cannot_be_loaded_stops_the_start_with_its_reason(pools: Pools) -> None:
    with pytest.raises(StartupError, match="the weights are not there") as caught:
        pools.start(loader="broken")
    assert caught.value.reason is StartupReason.WEIGHTS_NOT_FOUND


def test_a_process_that_is_killed_while_it_loads_stops_the_start(pools: Pools) -> None:
    with pytest.raises(StartupError, match="usually run out of memory"):
        pools.start(loader="killed")


def test_deadline_lane_and_cancellation_reach_the_process(pools: Pools) -> None:
    pool = pools.start(processes=1)
    hanging = pool.submit(image(1))
    late = pool.submit(image(2), deadline=time.monotonic() - 1)
    assert isinstance(late.exception(TIMEOUT), DeadlineExceededError)
    job = pool.submit(image(3), lane=Lane.JOB)
    abandoned = pool.submit(image(4))
    abandoned.cancel()
    assert values([hanging, job]) == [1.0, 3.0]
    wait_until(lambda: pool._handles[0].slots.free_bytes == pool._handles[0].slots.capacity)


def test_the_shared_memory_is_a_bound(pools: Pools) -> None:
    pool = pools.start(processes=1)
    large = np.zeros((3, 420, 420), dtype=np.float32)  # 2.1 MB; a second one does not fit into 4 MiB
    first = pool.submit(large)
    with pytest.raises(OverloadedError, match="all the room"):
        pool.submit(large)
    first.result(TIMEOUT)
    assert pool.submit(large).result(TIMEOUT).depth.shape == (420, 420)


def test_closing_fails_what_is_held_and_ends_the_processes(pools: Pools) -> None:
    pool = pools.start()
    hanging = [pool.submit(image(HANG)) for _ in range(3)]
    pids = [pid for pid in pool.process_ids() if pid]
    pool.close("the server stops")
    assert all(isinstance(future.exception(TIMEOUT), EngineStoppedError) for future in hanging)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(EngineStoppedError, match="the server stops"):
        pool.submit(image(1))


def test_a_pool_that_was_never_started_can_be_closed(pools: Pools) -> None:
    pools.make().close("never mind")
