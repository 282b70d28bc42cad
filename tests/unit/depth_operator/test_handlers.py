"""Which events of a DepthService wake the controller."""

from __future__ import annotations

import copy
from typing import Any

from depth_operator.handlers import DeclaredChanges
from tests.unit.depth_operator.builders import manifest


def changed(**metadata: Any) -> dict[str, Any]:
    service = copy.deepcopy(manifest())
    service["metadata"] |= {"uid": "1", "generation": 1, **metadata}
    return service


def test_the_echo_of_a_status_write_is_not_acted_upon() -> None:
    changes = DeclaredChanges()
    assert changes.is_new("ADDED", changed(resourceVersion="1"))
    written = changed(resourceVersion="2") | {"status": {"replicas": 1}}
    assert not changes.is_new("MODIFIED", written)
    assert not changes.is_new(None, written), "the same object, listed again after a lost watch"


def test_every_declared_change_is_acted_upon() -> None:
    changes = DeclaredChanges()
    going = changed(generation=2, deletionTimestamp="2026-01-01T00:00:00Z")
    assert changes.is_new(None, changed())
    assert changes.is_new("MODIFIED", changed(generation=2))
    assert changes.is_new("MODIFIED", going)
    assert changes.is_new("DELETED", going)
    assert changes.is_new("ADDED", changed())


def test_a_successor_of_the_same_name_is_not_taken_for_its_predecessor() -> None:
    changes = DeclaredChanges()
    assert changes.is_new("ADDED", changed())
    assert changes.is_new("MODIFIED", changed(uid="2")), "a deletion that the watch missed"
    assert changes.is_new("ADDED", changed(uid="3", namespace="other"))
