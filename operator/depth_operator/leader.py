"""Getting, keeping and giving back the Lease: the I/O around the rules of `depth_operator.lease`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from depth_operator.errors import ApiError, ConflictError
from depth_operator.lease import LeaseRecord, Move, Sighting, evaluate, may_lead, next_record, released, sight

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from depth_operator.manifests import Manifest
    from depth_operator.ports import MonotonicClock, WallClock

logger = logging.getLogger(__name__)


class Leases(Protocol):
    """The Lease in the API; errors are `depth_operator.errors.ApiError`."""

    async def get_lease(self) -> Manifest | None:
        """The Lease, None if there is none."""
        ...

    async def put_lease(self, lease: Manifest) -> Manifest:
        """Create the Lease, or update it if it carries a resource version; a lost race is a `ConflictError`."""
        ...


@dataclass(frozen=True, slots=True)
class LeaseConfig:
    """The Lease and its times, from the settings."""

    name: str
    namespace: str
    identity: str
    duration_seconds: int
    renew_deadline_seconds: float
    retry_period_seconds: float


class Elector:
    """Competes for the Lease. `is_leading` is the fence that every write has to pass."""

    def __init__(
        self,
        leases: Leases,
        config: LeaseConfig,
        *,
        monotonic: MonotonicClock,
        wall_microseconds: WallClock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._leases = leases
        self._config = config
        self._monotonic = monotonic
        self._wall = wall_microseconds
        self._sleep = sleep
        self._sighting: Sighting | None = None
        self._renewed_at: float | None = None
        self._said: str | None = None

    def is_leading(self) -> bool:
        """Whether a write may start now. Safe to call from any thread."""
        return may_lead(self._renewed_at, self._monotonic(), self._config.renew_deadline_seconds)

    async def acquire(self) -> None:
        """Return once this process leads."""
        while not await self._attempt():
            await self._sleep(self._config.retry_period_seconds)
        logger.info("leading", extra={"action": "lease", "identity": self._config.identity})

    async def hold(self) -> None:
        """Renew until the lead is lost, then return; the caller must end the process."""
        while self.is_leading():
            await self._sleep(self._config.retry_period_seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.renew_deadline_seconds):
                    await self._attempt()
            if self._sighting is not None and self._sighting.record.holder != self._config.identity:
                self._renewed_at = None
        self._renewed_at = None
        logger.critical(
            "the Lease is lost: not renewed within %s s, or taken by another process",
            self._config.renew_deadline_seconds,
            extra={"action": "lease", "identity": self._config.identity},
        )

    async def release(self) -> None:
        """Stop leading and, if possible, let the next process start at once."""
        leading, self._renewed_at = self.is_leading(), None
        if not leading or self._sighting is None:
            return
        record = self._sighting.record
        try:
            try:
                await self._give_back(record)
            except ConflictError:
                # A renewal that was cancelled may still have been sent: its answer was not waited for.
                live = await self._leases.get_lease()
                if live is not None and (record := LeaseRecord.parse(live)).holder == self._config.identity:
                    await self._give_back(record)
        except ApiError as error:
            logger.warning("Lease not given back: %s", error, extra={"action": "lease"})

    async def _give_back(self, record: LeaseRecord) -> None:
        await self._leases.put_lease(self._render(released(record, self._wall())))

    async def _attempt(self) -> bool:
        """Try once to get or renew the Lease."""
        started = self._monotonic()
        try:
            live = await self._leases.get_lease()
            self._sighting = None if live is None else sight(self._sighting, LeaseRecord.parse(live), started)
            move = evaluate(self._sighting, self._config.identity, started)
            if move is Move.WAIT:
                self._say_waiting()
                return False
            record = next_record(
                self._sighting,
                self._config.identity,
                duration_seconds=self._config.duration_seconds,
                wall=self._wall(),
            )
            written = await self._leases.put_lease(self._render(record))
        except ConflictError:
            return False
        except ApiError as error:
            logger.warning("Lease: %s", error, extra={"action": "lease", "identity": self._config.identity})
            return False
        self._sighting = Sighting(LeaseRecord.parse(written), started)
        self._renewed_at = started
        return True

    def _render(self, record: LeaseRecord) -> Manifest:
        return record.render(name=self._config.name, namespace=self._config.namespace)

    def _say_waiting(self) -> None:
        holder = self._sighting.record.holder if self._sighting is not None else ""
        if holder != self._said:
            self._said = holder
            logger.info("waiting for the Lease that %s holds", holder, extra={"action": "lease"})


class AlwaysLeading:
    """Stands in for an `Elector` where leader election is off."""

    def is_leading(self) -> bool:
        """Always."""
        return True
