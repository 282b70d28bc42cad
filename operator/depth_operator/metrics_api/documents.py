"""The JSON documents of the API: discovery, values, errors. Pure.

Source: https://pkg.go.dev/k8s.io/metrics/pkg/apis/external_metrics/v1beta1 and metav1 (APIGroup, Status).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
GROUP_VERSION = f"{GROUP}/{VERSION}"
METRIC = "depthservice_desired_replicas"
"""Name of the only metric."""
SERVICE_LABEL = "depthservice"
"""Label of its items: the name of the DepthService."""

Document = dict[str, Any]

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    500: "InternalError",
    503: "ServiceUnavailable",
}


def api_group_list() -> Document:
    """The answer to `/apis`."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group()]}


def api_group() -> Document:
    """The answer to `/apis/external.metrics.k8s.io`."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_group()}


def _group() -> Document:
    version = {"groupVersion": GROUP_VERSION, "version": VERSION}
    return {"name": GROUP, "versions": [version], "preferredVersion": version}


def api_resource_list() -> Document:
    """The answer to `/apis/external.metrics.k8s.io/v1beta1`, which is also the aggregator's availability check."""
    resource = {
        "name": METRIC,
        "singularName": "",
        "namespaced": True,
        "kind": "ExternalMetricValueList",
        "verbs": ["get"],
    }
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": [resource]}


def metric_values(replicas: Iterable[tuple[str, int]], as_of: datetime) -> Document:
    """The desired replicas of some DepthServices.

    Args:
        replicas: Name and number of each.
        as_of: Aware time at which the numbers were last known to be the published ones.
    """
    timestamp = as_of.strftime("%Y-%m-%dT%H:%M:%SZ")
    items = [
        {"metricName": METRIC, "metricLabels": {SERVICE_LABEL: name}, "timestamp": timestamp, "value": str(number)}
        for name, number in replicas
    ]
    return {"kind": "ExternalMetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": items}


def status_error(code: int, message: str) -> Document:
    """An error as clients of Kubernetes read it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": _REASONS.get(code, "Unknown"),
        "code": code,
    }
