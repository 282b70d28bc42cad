from __future__ import annotations

import asyncio

import pytest

from depth_operator.metrics_api.authentication import User
from depth_operator.metrics_api.authorization import CachedReviews
from depth_operator.metrics_api.cluster import ClusterError

ANN, BOB = User("ann"), User("bob")


class Reviewer:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.fails = False

    async def may_read(self, user: User, namespace: str) -> bool:
        self.asked.append(f"{user.name}@{namespace}")
        await asyncio.sleep(0)
        if self.fails:
            raise ClusterError("down")
        return user == ANN


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_one_question_for_a_while() -> None:
    reviewer, clock = Reviewer(), Clock()
    reviews = CachedReviews(reviewer, cache_seconds=10, clock=clock)

    answers = await asyncio.gather(*[reviews.may_read(ANN, "a") for _ in range(5)], reviews.may_read(BOB, "a"))
    clock.now = 9.9
    answers.append(await reviews.may_read(ANN, "a"))
    assert answers == [True, True, True, True, True, False, True]
    assert reviewer.asked == ["ann@a", "bob@a"]

    clock.now = 10.0
    await reviews.may_read(ANN, "a")
    await reviews.may_read(ANN, "b")
    assert reviewer.asked == ["ann@a", "bob@a", "ann@a", "ann@b"]


async def test_groups_make_another_user() -> None:
    reviewer = Reviewer()
    reviews = CachedReviews(reviewer, cache_seconds=10, clock=Clock())

    await reviews.may_read(ANN, "a")
    await reviews.may_read(User("ann", ("g",)), "a")

    assert len(reviewer.asked) == 2


async def test_failures_are_not_remembered() -> None:
    reviewer = Reviewer()
    reviews = CachedReviews(reviewer, cache_seconds=10, clock=Clock())
    reviewer.fails = True
    with pytest.raises(ClusterError):
        await reviews.may_read(ANN, "a")
    reviewer.fails = False

    assert await reviews.may_read(ANN, "a")


async def test_a_caller_that_hangs_up_leaves_the_others() -> None:
    reviewer = Reviewer()
    reviews = CachedReviews(reviewer, cache_seconds=10, clock=Clock())
    impatient, patient = (asyncio.create_task(reviews.may_read(ANN, "a")) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()

    assert await patient
    assert reviewer.asked == ["ann@a"]


async def test_the_memory_is_bounded() -> None:
    reviewer = Reviewer()
    reviews = CachedReviews(reviewer, cache_seconds=10, clock=Clock(), max_entries=2)
    for namespace in ("a", "b", "c", "a", "c"):
        await reviews.may_read(ANN, namespace)

    assert reviewer.asked == ["ann@a", "ann@b", "ann@c", "ann@a"]
