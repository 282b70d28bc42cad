"""The queue of keys, against a model of its guarantees."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from depth_operator.work_queue import WorkQueue, backoff_seconds

KEYS = st.sampled_from("abc")


class QueueModel(RuleBasedStateMachine):
    """Compares the queue with the plainest thing that has its guarantees."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: WorkQueue[str] = WorkQueue()
        self.now = 0.0
        self.due: dict[str, float] = {}
        self.in_work: set[str] = set()

    @rule(key=KEYS, delay=st.sampled_from([0.0, 1.0, 5.0]))
    def add(self, key: str, delay: float) -> None:
        self.queue.add(key, self.now + delay)
        self.due[key] = min(self.due.get(key, self.now + delay), self.now + delay)

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take(self) -> None:
        ready = {key: at for key, at in self.due.items() if at <= self.now and key not in self.in_work}
        key = self.queue.take(self.now)
        if not ready:
            assert key is None
            return
        assert key is not None
        assert ready[key] == min(ready.values()), "the key that has been due longest comes first"
        del self.due[key]
        self.in_work.add(key)

    @precondition(lambda self: self.in_work)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.in_work)))
        self.queue.done(key)
        self.in_work.remove(key)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.queue) == len(self.due)
        waiting = [at for key, at in self.due.items() if key not in self.in_work]
        assert self.queue.next_due() == min(waiting, default=None)


TestQueue = QueueModel.TestCase


@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True))
def test_back_off_grows_within_its_bounds(failures: int, jitter: float) -> None:
    delay = backoff_seconds(failures, base=0.5, cap=60, jitter=jitter)
    assert min(60, 0.5 * 2 ** (failures - 1)) / 2 <= delay <= 60
    assert delay <= backoff_seconds(failures + 1, base=0.5, cap=60, jitter=jitter)


def test_a_row_of_failures_ends_with_a_success() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert [queue.record_failure("a"), queue.record_failure("a"), queue.record_failure("b")] == [1, 2, 1]
    queue.record_success("a")
    assert queue.record_failure("a") == 1
