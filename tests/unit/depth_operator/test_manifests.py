"""Whether a live object already is what would be applied."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_operator.manifests import (
    contains,
    field_owners,
    is_applied,
    manifest_hash,
    parse_quantity,
    with_applied_hash,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_an_object_contains_itself_and_whatever_others_add(desired: dict[str, Any]) -> None:
    assert contains(desired, desired)
    assert contains({**desired, "added by a webhook": True}, desired)


@given(st.dictionaries(st.text(max_size=5), json_values, min_size=1, max_size=4), st.data())
def test_a_removed_field_is_found(desired: dict[str, Any], data: st.DataObject) -> None:
    removed = data.draw(st.sampled_from(sorted(desired)))
    live = {key: value for key, value in desired.items() if key != removed}
    assert not contains(live, desired)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_the_hash_does_not_depend_on_the_order_of_keys(manifest: dict[str, Any]) -> None:
    assert manifest_hash(manifest) == manifest_hash(dict(reversed(manifest.items())))


def test_containers_are_matched_by_name_so_an_injected_sidecar_is_no_drift() -> None:
    desired = {"containers": [{"name": "depth-server", "image": "a"}]}
    assert contains({"containers": [{"name": "sidecar"}, {"name": "depth-server", "image": "a"}]}, desired)
    assert not contains({"containers": [{"name": "sidecar"}, {"name": "depth-server", "image": "b"}]}, desired)


def test_lists_without_names_are_compared_as_a_whole() -> None:
    assert not contains({"drop": ["ALL", "NET_RAW"]}, {"drop": ["ALL"]})


@pytest.mark.parametrize(("live", "desired"), [("1", "1000m"), ("1Gi", "1024Mi"), ("2", 2), ("1500m", "1.5")])
def test_quantities_are_compared_by_value(live: str, desired: str | int) -> None:
    assert contains({"limits": {"cpu": live}}, {"limits": {"cpu": desired}})


def test_only_quantities_are_compared_by_value() -> None:
    assert not contains({"value": "1"}, {"value": "1000m"})


def test_text_that_is_no_quantity_stays_text() -> None:
    assert parse_quantity("many") == "many"


def rendered(**spec: Any) -> dict[str, Any]:
    return with_applied_hash({"kind": "Service", "metadata": {"name": "depth"}, "spec": spec})


def test_a_field_that_is_no_longer_rendered_asks_for_an_apply() -> None:
    live = copy.deepcopy(rendered(type="ClusterIP", loadBalancerClass="old"))
    assert contains(live["spec"], {"type": "ClusterIP"})
    assert not is_applied(live, rendered(type="ClusterIP"))


def test_an_edit_by_somebody_else_asks_for_an_apply() -> None:
    live = copy.deepcopy(rendered(type="ClusterIP"))
    assert is_applied(live, rendered(type="ClusterIP"))
    live["spec"]["type"] = "NodePort"
    assert not is_applied(live, rendered(type="ClusterIP"))


def test_owners_of_a_field_are_read_from_managed_fields() -> None:
    live = {
        "metadata": {
            "managedFields": [
                {"manager": "depth-operator", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:selector": {}}}},
                {"manager": "kubectl", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
            ]
        }
    }
    assert field_owners(live, ("spec", "replicas")) == {"depth-operator"}
    assert field_owners({"metadata": {}}, ("spec", "replicas")) == frozenset()
