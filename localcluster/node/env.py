"""A container's environment and arguments, resolved as the kubelet does it. Pure: references are fetched before."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from localcluster.node.quantity import in_units

if TYPE_CHECKING:
    from collections.abc import Mapping

    from localcluster.settings import JsonObject

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")
_VARIABLE_NAME = re.compile(r"[^\x00-\x20=\x7f]+")
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class ConfigError(Exception):
    """A container cannot be configured; shown as CreateContainerConfigError."""


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value.

    `$$` is an escaped dollar sign; a reference to an unknown variable stays as it is
    (https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/).
    """

    def replace(match: re.Match[str]) -> str:
        if match.group(0) == "$$":
            return "$"
        return variables.get(match.group(1), match.group(0))

    return _REFERENCE.sub(replace, text)


@dataclass(frozen=True)
class References:
    """Names of the ConfigMaps and Secrets that a container's environment needs."""

    config_maps: frozenset[str]
    secrets: frozenset[str]


@dataclass(frozen=True)
class Sources:
    """What the environment is made from.

    Attributes:
        pod: The pod, with `status.podIP` and `status.hostIP` set.
        config_maps: ConfigMaps by name; None for one that does not exist.
        secrets: Secrets by name; None for one that does not exist.
        allocatable: The node's allocatable resources, which stand in for absent limits.
    """

    pod: JsonObject
    config_maps: Mapping[str, JsonObject | None] = field(default_factory=dict)
    secrets: Mapping[str, JsonObject | None] = field(default_factory=dict)
    allocatable: Mapping[str, str] = field(default_factory=dict)


def references(container: JsonObject) -> References:
    """Return what must be fetched before `resolve`."""
    config_maps, secrets = set(), set()
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            config_maps.add(source["configMapRef"]["name"])
        if "secretRef" in source:
            secrets.add(source["secretRef"]["name"])
    for variable in container.get("env", []):
        value = variable.get("valueFrom", {})
        if "configMapKeyRef" in value:
            config_maps.add(value["configMapKeyRef"]["name"])
        if "secretKeyRef" in value:
            secrets.add(value["secretKeyRef"]["name"])
    return References(frozenset(config_maps), frozenset(secrets))


def decode_secret(secret: JsonObject) -> dict[str, bytes]:
    """Return a Secret's data, decoded."""
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}


def decode_config_map(config_map: JsonObject) -> dict[str, bytes]:
    """Return a ConfigMap's data and binaryData."""
    text = {key: value.encode() for key, value in (config_map.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (config_map.get("binaryData") or {}).items()}
    return {**text, **binary}


def field_value(pod: JsonObject, path: str) -> str:
    """Return a field of the downward API.

    Raises:
        ConfigError: If the field is not supported.
    """
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    match = _SUBSCRIPT.fullmatch(path)
    if match:
        return str((metadata.get(match.group(1)) or {}).get(match.group(2), ""))
    if path in ("metadata.labels", "metadata.annotations"):
        items = metadata.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f'{key}="{_escape(value)}"' for key, value in sorted(items.items()))
    plain = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.podIP": status.get("podIP", ""),
        "status.hostIP": status.get("hostIP", ""),
        "status.podIPs": ",".join(item["ip"] for item in status.get("podIPs", [])),
        "status.hostIPs": ",".join(item["ip"] for item in status.get("hostIPs", [])),
    }
    if path not in plain:
        msg = f"fieldRef: the field {path!r} is not supported"
        raise ConfigError(msg)
    return str(plain[path])


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(reference: JsonObject, container: JsonObject, sources: Sources) -> str:
    """Return the value of a `resourceFieldRef`, rounded up to its divisor.

    Raises:
        ConfigError: If the resource is not one of the downward API, or names another container that is absent.
    """
    owner = container
    name = reference.get("containerName")
    if name and name != container.get("name"):
        containers = [*sources.pod["spec"]["containers"], *sources.pod["spec"].get("initContainers", [])]
        owner = next((item for item in containers if item["name"] == name), {})
    kind, _, resource = reference["resource"].partition(".")
    if kind not in ("limits", "requests") or not resource:
        msg = f"resourceFieldRef: {reference['resource']!r} is not supported"
        raise ConfigError(msg)
    quantity = owner.get("resources", {}).get(kind, {}).get(resource)
    if quantity is None:
        # An absent limit means the node's whole capacity, an absent request zero, as in the kubelet.
        quantity = sources.allocatable.get(resource, "0") if kind == "limits" else "0"
    return str(in_units(quantity, str(reference.get("divisor") or "1")))


def _data(kind: str, found: Mapping[str, JsonObject | None], reference: JsonObject) -> dict[str, bytes] | None:
    item = found.get(reference["name"])
    if item is None:
        if reference.get("optional"):
            return None
        msg = f'{kind} "{reference["name"]}" not found'
        raise ConfigError(msg)
    return decode_secret(item) if kind == "secret" else decode_config_map(item)


def _key(kind: str, found: Mapping[str, JsonObject | None], reference: JsonObject, namespace: str) -> str | None:
    data = _data(kind, found, reference)
    if data is None:
        return None
    if reference["key"] not in data:
        if reference.get("optional"):
            return None
        msg = f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}"
        raise ConfigError(msg)
    return data[reference["key"]].decode(errors="surrogateescape")


def _value_from(source: JsonObject, container: JsonObject, sources: Sources) -> str | None:
    namespace = sources.pod["metadata"]["namespace"]
    if "fieldRef" in source:
        return field_value(sources.pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return resource_value(source["resourceFieldRef"], container, sources)
    if "configMapKeyRef" in source:
        return _key("configmap", sources.config_maps, source["configMapKeyRef"], namespace)
    if "secretKeyRef" in source:
        return _key("secret", sources.secrets, source["secretKeyRef"], namespace)
    msg = f"env: valueFrom {sorted(source)} is not supported"
    raise ConfigError(msg)


def resolve(container: JsonObject, sources: Sources) -> dict[str, str]:
    """Return the environment that a container declares, expanded but not rewritten.

    Raises:
        ConfigError: If a ConfigMap, a Secret or a key is missing and not optional.
    """
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            data = _data("configmap", sources.config_maps, source["configMapRef"])
        else:
            data = _data("secret", sources.secrets, source["secretRef"])
        for key, value in (data or {}).items():
            name = source.get("prefix", "") + key
            if _VARIABLE_NAME.fullmatch(name):
                environment[name] = value.decode(errors="surrogateescape")
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            value_from = _value_from(variable["valueFrom"], container, sources)
            if value_from is not None:
                environment[variable["name"]] = value_from
        else:
            environment[variable["name"]] = expand(variable.get("value", ""), environment)
    return environment
