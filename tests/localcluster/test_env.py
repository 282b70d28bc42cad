from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.node.env import ConfigError, Sources, expand, references, resolve

POD: dict[str, Any] = {
    "metadata": {
        "name": "p",
        "namespace": "n",
        "uid": "u",
        "labels": {"a": "1", "b": 'q"'},
        "annotations": {"x/y": "z"},
    },
    "spec": {"nodeName": "local", "serviceAccountName": "sa", "containers": []},
    "status": {"podIP": "10.244.0.1", "podIPs": [{"ip": "10.244.0.1"}], "hostIP": "10.1.0.1"},
}


def environment(container: dict[str, Any], **sources: Any) -> dict[str, str]:
    return resolve({"name": "c", **container}, Sources(POD, **sources))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(MISSING)", "$(MISSING)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$(C)", "$(A)"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2", "C": "$(A)"}) == expected


@given(st.text(alphabet=st.characters(exclude_characters="$")))
def test_text_without_a_dollar_stays_as_it_is(text: str) -> None:
    assert expand(text, {"A": "1"}) == text


@given(st.text(), st.text(alphabet="AB", min_size=1))
def test_escaped_reference_survives(value: str, name: str) -> None:
    assert expand(f"$$({name})", {name: value}) == f"$({name})"


def test_variable_sees_those_before_it_only() -> None:
    declared = [{"name": "A", "value": "$(B)"}, {"name": "B", "value": "b"}, {"name": "C", "value": "$(B)"}]
    assert environment({"env": declared}) == {"A": "$(B)", "B": "b", "C": "b"}


def test_declared_variable_overrides_env_from() -> None:
    config = {"data": {"A": "config", "B": "config", "not=valid": "x"}}
    secret = {"data": {"B": base64.b64encode(b"secret").decode()}}
    container = {
        "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "s"}, "prefix": "P_"}],
        "env": [{"name": "A", "value": "own"}],
    }
    found = environment(container, config_maps={"c": config}, secrets={"s": secret})
    assert found == {"A": "own", "B": "config", "P_B": "secret"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "n"),
        ("metadata.uid", "u"),
        ("metadata.labels['a']", "1"),
        ("metadata.annotations['x/y']", "z"),
        ("metadata.labels['absent']", ""),
        ("metadata.labels", 'a="1"\nb="q\\""'),
        ("spec.nodeName", "local"),
        ("spec.serviceAccountName", "sa"),
        ("status.podIP", "10.244.0.1"),
        ("status.hostIP", "10.1.0.1"),
    ],
)
def test_fields(path: str, expected: str) -> None:
    assert environment({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]}) == {"X": expected}


def test_unknown_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'spec\.replicas' is not supported"):
        environment({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.replicas"}}}]})


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"resource": "requests.cpu"}, "2"),
        ({"resource": "requests.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "limits.memory", "divisor": "1Mi"}, "1024"),
        ({"resource": "limits.cpu"}, "64"),
        ({"resource": "requests.memory"}, "0"),
    ],
)
def test_resources(reference: dict[str, str], expected: str) -> None:
    container = {
        "resources": {"requests": {"cpu": "1500m"}, "limits": {"memory": "1Gi"}},
        "env": [{"name": "X", "valueFrom": {"resourceFieldRef": reference}}],
    }
    assert environment(container, allocatable={"cpu": "64"}) == {"X": expected}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"secretKeyRef": {"name": "s", "key": "k"}}, 'secret "s" not found'),
        ({"configMapKeyRef": {"name": "c", "key": "k"}}, "couldn't find key k in configmap n/c"),
    ],
)
def test_missing_reference_is_named(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        environment({"env": [{"name": "X", "valueFrom": source}]}, config_maps={"c": {"data": {}}})


def test_optional_references_may_be_missing() -> None:
    container = {
        "envFrom": [{"secretRef": {"name": "s", "optional": True}}],
        "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": True}}}],
    }
    assert environment(container) == {}
    assert references({"name": "c", **container}).secrets == {"s"}
    assert references({"name": "c", **container}).config_maps == {"c"}
