"""Objects for tests, each with only what the test is about."""

from __future__ import annotations

from typing import Any

from depth_operator.api.naming import CONTAINER_NAME, TEMPLATE_HASH_ANNOTATION, child_labels
from depth_operator.api.v1alpha1 import DepthService

NAME = "depth"
NAMESPACE = "default"
UID = "11111111-2222-3333-4444-555555555555"


def manifest(**spec: Any) -> dict[str, Any]:
    """A DepthService as the API server returns it, with defaults where the CRD has them."""
    return {
        "apiVersion": "depthserving.dev/v1alpha1",
        "kind": "DepthService",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": UID, "generation": 1, "resourceVersion": "1"},
        "spec": {
            "model": {
                "family": "DepthAnything",
                "variant": "ViTS14",
                "source": {"persistentVolumeClaim": {"claimName": "weights", "path": "a/model.safetensors"}},
            },
            **spec,
        },
    }


def service(**spec: Any) -> DepthService:
    """The same, parsed."""
    return DepthService.parse(manifest(**spec))


def autoscaling(minimum: int = 1, maximum: int = 4, *metrics: dict[str, Any]) -> dict[str, Any]:
    """``spec.autoscaling``."""
    return {
        "minReplicas": minimum,
        "maxReplicas": maximum,
        "metrics": list(metrics) or [{"type": "GPUUtilization", "targetPercent": 70}],
    }


def pod(
    name: str = "depth-1", *, ready: bool = False, template_hash: str = "now", terminating: bool = False, **status: Any
) -> dict[str, Any]:
    """A pod; ``status`` is merged over that of a running one."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": NAMESPACE,
        "labels": child_labels(NAME),
        "annotations": {TEMPLATE_HASH_ANNOTATION: template_hash},
    }
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "status": {
            "phase": "Running",
            "conditions": conditions,
            "containerStatuses": [{"name": CONTAINER_NAME, "image": "image:1", "state": {"running": {}}}],
            **status,
        },
    }


def container_status(**status: Any) -> list[dict[str, Any]]:
    """``status.containerStatuses`` with the server's container."""
    return [{"name": CONTAINER_NAME, "image": "image:1", **status}]
