"""Which Events a change of the status gives rise to. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from depth_operator.api.conditions import ConditionType, Reason, find_condition
from depth_operator.status import Status, published_replicas

if TYPE_CHECKING:
    from collections.abc import Iterator

_HARMLESS = frozenset({Reason.CREATING, Reason.WARMING_UP, Reason.ROLLING_OUT, Reason.SCALED_TO_ZERO})
"""Reasons for not being ready that are a normal part of life."""


@dataclass(frozen=True, slots=True)
class Event:
    """An Event to be recorded; ``type`` is ``Normal`` or ``Warning``."""

    type: str
    reason: str
    action: str
    message: str


def transition_events(previous: Status, status: Status) -> Iterator[Event]:
    """One Event where Ready changed its status or reason, one where the scaling decision changed."""
    before = find_condition(previous.get("conditions") or [], ConditionType.READY) or {}
    after = find_condition(status.get("conditions") or [], ConditionType.READY) or {}
    if after and (before.get("status"), before.get("reason")) != (after["status"], after["reason"]):
        harmless = after["status"] == "True" or after["reason"] in _HARMLESS
        yield Event("Normal" if harmless else "Warning", after["reason"], "Reconcile", after["message"])
    old, new = published_replicas(previous), published_replicas(status)
    if new is not None and old is not None and new != old:
        message = f"desired replicas {old} -> {new}: {status['autoscaling']['message']}"
        yield Event("Normal", "ScaledUp" if new > old else "ScaledDown", "Scale", message)
