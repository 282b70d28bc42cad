"""Kubernetes objects for tests on a local cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localcluster.settings import JsonObject


def python_container(name: str, program: str, **fields: Any) -> JsonObject:  # noqa: ANN401 - fields of the API
    """Return a container that runs a Python program."""
    return {"name": name, "image": "python:3.11", "args": ["-c", program], **fields}


def shell_container(name: str, script: str, **fields: Any) -> JsonObject:  # noqa: ANN401 - fields of the API
    """Return a container that runs a shell script."""
    return {"name": name, "image": "busybox", "command": ["sh", "-c", script], **fields}


def pod(name: str, *containers: JsonObject, labels: dict[str, str] | None = None, **spec: Any) -> JsonObject:  # noqa: ANN401 - fields of the API
    """Return a pod with a short grace period."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": list(containers), **spec},
    }


def configured(kind: str, name: str, data: dict[str, str]) -> JsonObject:
    """Return a ConfigMap, or a Secret with its data as text."""
    field = "stringData" if kind == "Secret" else "data"
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, field: data}


def claim(name: str) -> JsonObject:
    """Return a PersistentVolumeClaim of the default storage class."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


def service(name: str, selector: dict[str, str], port: int, target: int | str) -> JsonObject:
    """Return a ClusterIP Service with one port."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": selector, "ports": [{"port": port, "targetPort": target}]},
    }


def deployment(name: str, replicas: int, container: JsonObject) -> JsonObject:
    """Return a Deployment whose pods carry the label `app: <name>`."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 5, "containers": [container]},
            },
        },
    }
