"""Leader election by a Lease: the rules, without I/O and without a clock of their own.

The rules are client-go's. Clocks of different machines are never compared: a candidate takes a Lease over when *it* has
not seen it change for the Lease's duration, by its own monotonic clock. A leader counts its lead from before it sent
its last successful renewal, so it stops before anybody else can start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depth_operator.manifests import Manifest

RELEASED_DURATION_SECONDS = 1
"""Duration written into a Lease that is given back: anybody may take it at once."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a Lease says.

    Attributes:
        holder: Identity of the leader; empty if the Lease was given back.
        duration_seconds: For how long a renewal counts.
        acquire_time: When the holder took it, RFC 3339 with microseconds.
        renew_time: When it was last renewed; of the holder's clock, only ever compared for equality.
        transitions: How often the holder changed.
        resource_version: Makes an update fail if somebody else was faster.
    """

    holder: str
    duration_seconds: int
    acquire_time: str
    renew_time: str
    transitions: int
    resource_version: str

    @classmethod
    def parse(cls, lease: Manifest) -> LeaseRecord:
        """Read an object of the API server; absent fields are those of a Lease that nobody ever held."""
        spec: dict[str, Any] = lease.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration_seconds=spec.get("leaseDurationSeconds") or RELEASED_DURATION_SECONDS,
            acquire_time=spec.get("acquireTime") or "",
            renew_time=spec.get("renewTime") or "",
            transitions=spec.get("leaseTransitions") or 0,
            resource_version=lease["metadata"]["resourceVersion"],
        )

    def render(self, *, name: str, namespace: str) -> Manifest:
        """The object to write."""
        metadata: dict[str, str] = {"name": name, "namespace": namespace}
        if self.resource_version:
            metadata["resourceVersion"] = self.resource_version
        spec: dict[str, Any] = {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.duration_seconds,
            "acquireTime": self.acquire_time,
            "renewTime": self.renew_time,
            "leaseTransitions": self.transitions,
        }
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


@dataclass(frozen=True, slots=True)
class Sighting:
    """A Lease and when this process first saw it in this state, by its monotonic clock."""

    record: LeaseRecord
    since: float


class Move(StrEnum):
    """What to do about a Lease."""

    CREATE = "Create"
    RENEW = "Renew"
    TAKE = "Take"
    WAIT = "Wait"


def sight(previous: Sighting | None, record: LeaseRecord, now: float) -> Sighting:
    """Update a sighting; the time moves only when the record changed."""
    if previous is not None and previous.record == record:
        return previous
    return Sighting(record, now)


def evaluate(sighting: Sighting | None, identity: str, now: float) -> Move:
    """What a candidate or leader has to do now.

    Args:
        sighting: The Lease as it is; None if there is none.
        identity: This process.
        now: Monotonic seconds.
    """
    if sighting is None:
        return Move.CREATE
    if sighting.record.holder == identity:
        return Move.RENEW
    if not sighting.record.holder:
        return Move.TAKE
    expired = now - sighting.since >= sighting.record.duration_seconds
    return Move.TAKE if expired else Move.WAIT


def next_record(sighting: Sighting | None, identity: str, *, duration_seconds: int, wall: str) -> LeaseRecord:
    """The record by which ``identity`` creates, takes or renews the Lease."""
    if sighting is None:
        return LeaseRecord(identity, duration_seconds, wall, wall, 0, "")
    record = sighting.record
    if record.holder == identity:
        return replace(record, duration_seconds=duration_seconds, renew_time=wall)
    return LeaseRecord(identity, duration_seconds, wall, wall, record.transitions + 1, record.resource_version)


def released(record: LeaseRecord, wall: str) -> LeaseRecord:
    """The record by which a leader gives the Lease back."""
    return replace(record, holder="", duration_seconds=RELEASED_DURATION_SECONDS, acquire_time=wall, renew_time=wall)


def may_lead(renewed_at: float | None, now: float, renew_deadline_seconds: float) -> bool:
    """Whether a write may start: the last renewal, counted from before it was sent, is young enough."""
    return renewed_at is not None and now - renewed_at < renew_deadline_seconds
