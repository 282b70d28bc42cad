"""The HorizontalPodAutoscaler."""

from __future__ import annotations

from typing import Any

from depth_operator.api.naming import EXTERNAL_METRIC, EXTERNAL_METRIC_LABEL
from depth_operator.api.v1alpha1 import Autoscaling, DepthService, MetricType
from depth_operator.manifests import Manifest, with_applied_hash
from depth_operator.render.metadata import child_metadata

PERIOD_SECONDS = 15
"""Period of the scaling policies: one turn of the autoscaler's loop."""


def render_autoscaler(service: DepthService, autoscaling: Autoscaling) -> Manifest:
    """A HorizontalPodAutoscaler that does what the operator decided.

    The external metric is the number of replicas itself. With an AverageValue target of 1 the autoscaler computes
    ceil(metric / 1), whatever the present number is, and a tolerance of 0 keeps it from dropping small steps
    (https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#algorithm-details). Damping has
    happened in the decision, so the behaviour allows any step at once. With a CPU target alone the operator decides
    nothing: the autoscaler's own damping stays.
    """
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": service.key.name},
        "minReplicas": autoscaling.min_replicas,
        "maxReplicas": autoscaling.max_replicas,
        "metrics": _metrics(service.key.name, autoscaling),
    }
    if autoscaling.follows_operator_law:
        spec["behavior"] = _permissive_behavior(autoscaling.max_replicas)
    return with_applied_hash(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": child_metadata(service),
            "spec": spec,
        }
    )


def _metrics(name: str, autoscaling: Autoscaling) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = []
    if autoscaling.follows_operator_law:
        metrics.append(
            {
                "type": "External",
                "external": {
                    "metric": {
                        "name": EXTERNAL_METRIC,
                        "selector": {"matchLabels": {EXTERNAL_METRIC_LABEL: name}},
                    },
                    "target": {"type": "AverageValue", "averageValue": "1"},
                },
            }
        )
    cpu = autoscaling.metric(MetricType.CPU_UTILIZATION)
    if cpu is not None:
        metrics.append(
            {
                "type": "Resource",
                "resource": {
                    "name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": cpu.target_percent},
                },
            }
        )
    return metrics


def _permissive_behavior(max_replicas: int) -> dict[str, Any]:
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "tolerance": "0",
            "selectPolicy": "Max",
            "policies": [{"type": "Pods", "value": max_replicas, "periodSeconds": PERIOD_SECONDS}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": 0,
            "tolerance": "0",
            "selectPolicy": "Max",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": PERIOD_SECONDS}],
        },
    }
