"""Leader election with a virtual clock: never two leaders, and a dead one is replaced."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_operator.errors import ConflictError, UnavailableError
from depth_operator.leader import Elector, LeaseConfig
from depth_operator.lease import LeaseRecord, Move, Sighting, evaluate, may_lead, next_record, released, sight

DURATION, DEADLINE, RETRY = 15, 10.0, 2.0


def record(holder: str, version: str = "1", renewed: str = "t0") -> LeaseRecord:
    return LeaseRecord(holder, DURATION, "t0", renewed, 0, version)


def test_a_missing_lease_is_created_an_own_one_renewed_a_released_one_taken() -> None:
    assert evaluate(None, "me", 0) is Move.CREATE
    assert evaluate(Sighting(record("me"), 0), "me", 999) is Move.RENEW
    assert evaluate(Sighting(record(""), 0), "me", 0) is Move.TAKE


@given(st.floats(0, 100), st.floats(0, 100))
def test_anothers_lease_is_taken_exactly_when_it_was_seen_unchanged_for_its_duration(
    since: float, waited: float
) -> None:
    move = evaluate(Sighting(record("other"), since), "me", since + waited)
    assert (move is Move.TAKE) == ((since + waited) - since >= DURATION)


def test_a_renewal_starts_the_wait_again_and_a_repeated_sight_does_not() -> None:
    first = sight(None, record("other"), 1.0)
    assert sight(first, record("other"), 9.0).since == 1.0
    assert sight(first, record("other", "2", "t1"), 9.0).since == 9.0


def test_transitions_count_changes_of_the_holder_only() -> None:
    taken = next_record(Sighting(record("other"), 0), "me", duration_seconds=DURATION, wall="t9")
    assert (taken.holder, taken.transitions, taken.acquire_time) == ("me", 1, "t9")
    renewed = next_record(Sighting(taken, 0), "me", duration_seconds=DURATION, wall="t10")
    assert (renewed.transitions, renewed.acquire_time, renewed.renew_time) == (1, "t9", "t10")
    assert evaluate(Sighting(released(renewed, "t11"), 0), "other", 0) is Move.TAKE


@given(st.floats(0, 1000), st.floats(0, 100))
def test_a_leader_stops_before_anybody_can_take_over(renewed_at: float, elapsed: float) -> None:
    now = renewed_at + elapsed
    taken_over = evaluate(Sighting(record("me"), renewed_at), "other", now) is Move.TAKE
    assert not (taken_over and may_lead(renewed_at, now, DEADLINE))


def test_without_a_renewal_nobody_leads() -> None:
    assert not may_lead(None, 0.0, DEADLINE)


class World:
    """A Lease in an API server, and a clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.reachable = True

    async def get_lease(self) -> dict[str, Any] | None:
        self.check()
        return copy.deepcopy(self.lease)

    async def put_lease(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.check()
        current = self.lease["metadata"]["resourceVersion"] if self.lease else None
        if lease["metadata"].get("resourceVersion") != current:
            raise ConflictError("write Lease", 409, "Conflict", "changed")
        self.version += 1
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    def check(self) -> None:
        if not self.reachable:
            raise UnavailableError("get Lease", 0, "Unreachable", "no route")

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def elector(self, identity: str) -> Elector:
        config = LeaseConfig("depth-operator", "default", identity, DURATION, DEADLINE, RETRY)
        return Elector(
            self, config, monotonic=lambda: self.now, wall_microseconds=lambda: f"t{self.now}", sleep=self.sleep
        )


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_one_leads_at_once(world: World) -> None:
    elector = world.elector("a")
    assert not elector.is_leading()
    await elector.acquire()
    assert elector.is_leading()
    assert world.now == 0


async def test_a_dead_leader_is_replaced_after_the_duration_and_not_before(world: World) -> None:
    await world.elector("a").acquire()
    follower = world.elector("b")
    await follower.acquire()
    assert DURATION <= world.now <= DURATION + 2 * RETRY
    assert follower.is_leading()


async def test_a_released_lease_is_taken_at_the_next_look(world: World) -> None:
    leader = world.elector("a")
    await leader.acquire()
    await leader.release()
    assert not leader.is_leading()
    await world.elector("b").acquire()
    assert world.now == 0


async def test_a_leader_that_cannot_renew_stops_before_the_lease_runs_out(world: World) -> None:
    leader = world.elector("a")
    await leader.acquire()
    world.reachable = False
    await leader.hold()
    assert not leader.is_leading()
    assert DEADLINE <= world.now < DURATION


async def test_a_leader_that_sees_another_holder_stops_at_once(world: World) -> None:
    leader = world.elector("a")
    await leader.acquire()
    assert world.lease is not None
    world.lease["spec"]["holderIdentity"] = "b"
    world.lease["metadata"]["resourceVersion"] = "77"
    await leader.hold()
    assert not leader.is_leading()
    assert world.now <= RETRY


async def test_a_lost_lease_is_not_given_back(world: World) -> None:
    leader = world.elector("a")
    await leader.acquire()
    world.reachable = False
    await leader.hold()
    world.reachable = True
    await leader.release()
    assert world.lease is not None
    assert world.lease["spec"]["holderIdentity"] == "a"


async def test_a_renewal_that_was_sent_and_not_waited_for_does_not_keep_the_lease(world: World) -> None:
    leader = world.elector("a")
    await leader.acquire()
    assert world.lease is not None
    await world.put_lease(world.lease)
    await leader.release()
    assert world.lease["spec"]["holderIdentity"] == ""


async def test_a_lease_that_somebody_else_took_is_not_given_back(world: World) -> None:
    leader = world.elector("a")
    await leader.acquire()
    assert world.lease is not None
    world.lease["spec"]["holderIdentity"] = "b"
    await world.put_lease(world.lease)
    await leader.release()
    assert world.lease["spec"]["holderIdentity"] == "b"


async def test_a_short_outage_costs_nothing(world: World) -> None:
    leader = world.elector("a")
    await leader.acquire()
    holding = asyncio.create_task(leader.hold())
    world.reachable = False
    while world.now < 6:  # noqa: ASYNC110 - the virtual clock moves with the turns of the loop
        await asyncio.sleep(0)
    world.reachable = True
    while world.now < 60:  # noqa: ASYNC110 - the virtual clock moves with the turns of the loop
        await asyncio.sleep(0)
    assert leader.is_leading()
    assert not holding.done()
    holding.cancel()


async def test_of_two_that_come_at_once_one_leads(world: World) -> None:
    first, second = world.elector("a"), world.elector("b")
    leading = [asyncio.create_task(first.acquire()), asyncio.create_task(second.acquire())]
    await asyncio.wait(leading, return_when=asyncio.FIRST_COMPLETED)
    assert first.is_leading() != second.is_leading()
    for task in leading:
        task.cancel()
