"""The Deployment of inference servers, by docs/reference/contract.md section 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from depth_operator.api.naming import (
    CONTAINER_NAME,
    HTTP_PORT,
    HTTP_PORT_NAME,
    TEMPLATE_HASH_ANNOTATION,
    WEIGHTS_MOUNT_PATH,
    child_labels,
    selector_labels,
)
from depth_operator.errors import InvalidSpecError
from depth_operator.manifests import Manifest, manifest_hash, with_applied_hash
from depth_operator.render.metadata import child_metadata

if TYPE_CHECKING:
    from depth_operator.api.v1alpha1 import DepthService

PROGRESS_DEADLINE_SECONDS: Final = 900
"""A rollout without progress for this long is reported as stalled: image pull, weights and warm-up take minutes."""
TERMINATION_GRACE_SECONDS: Final = 60
"""Time for a replica to finish what it accepted after SIGTERM, before SIGKILL."""
REVISION_HISTORY_LIMIT: Final = 3
"""Old ReplicaSets that are kept for ``kubectl rollout undo``."""
TMP_SIZE_LIMIT: Final = "2Gi"
"""Bound of /tmp, the only writable folder: uploads that spill over and compiler caches."""

STARTUP_PERIOD_SECONDS: Final = 2
STARTUP_FAILURE_THRESHOLD: Final = 300
"""Times the period: 10 minutes until a server that never answers is restarted."""

_WEIGHTS_VOLUME: Final = "weights"
_TMP_VOLUME: Final = "tmp"


def render_deployment(service: DepthService, *, server_image: str, replicas: int | None) -> Manifest:
    """The Deployment.

    Args:
        service: What is to be served.
        server_image: The image where the DepthService names none.
        replicas: Number of replicas; None leaves the field to its owner, the autoscaler.
    """
    name = service.key.name
    template = _pod_template(service, server_image)
    spec: dict[str, Any] = {
        "selector": {"matchLabels": selector_labels(name)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS,
        "revisionHistoryLimit": REVISION_HISTORY_LIMIT,
        "template": template,
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return with_applied_hash(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": child_metadata(service), "spec": spec}
    )


def template_hash(deployment: Manifest) -> str:
    """The hash that pods of this rendered Deployment carry."""
    annotations: dict[str, str] = deployment["spec"]["template"]["metadata"]["annotations"]
    return annotations[TEMPLATE_HASH_ANNOTATION]


def _pod_template(service: DepthService, server_image: str) -> dict[str, Any]:
    spec = _pod_spec(service, server_image)
    return {
        "metadata": {
            "labels": child_labels(service.key.name),
            "annotations": {TEMPLATE_HASH_ANNOTATION: manifest_hash(spec)},
        },
        "spec": spec,
    }


def _pod_spec(service: DepthService, server_image: str) -> dict[str, Any]:
    runtime = service.spec.runtime
    volumes: list[dict[str, Any]] = [{"name": _TMP_VOLUME, "emptyDir": {"sizeLimit": TMP_SIZE_LIMIT}}]
    claim = service.spec.model.source.persistent_volume_claim
    if claim is not None:
        volumes.append(
            {
                "name": _WEIGHTS_VOLUME,
                "persistentVolumeClaim": {"claimName": claim.claim_name, "readOnly": True},
            }
        )
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(service, runtime.image or server_image)],
        "volumes": volumes,
    }
    if runtime.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret.name} for secret in runtime.image_pull_secrets]
    return spec


def _container(service: DepthService, image: str) -> dict[str, Any]:
    mounts: list[dict[str, Any]] = [{"name": _TMP_VOLUME, "mountPath": "/tmp"}]  # noqa: S108 - the container's own
    if service.spec.model.source.persistent_volume_claim is not None:
        mounts.append({"name": _WEIGHTS_VOLUME, "mountPath": WEIGHTS_MOUNT_PATH, "readOnly": True})
    return {
        "name": CONTAINER_NAME,
        "image": image,
        "imagePullPolicy": service.spec.runtime.image_pull_policy,
        "ports": [{"name": HTTP_PORT_NAME, "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "env": _environment(service),
        "resources": _resources(service),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": mounts,
        "startupProbe": _probe(
            "/healthz", period=STARTUP_PERIOD_SECONDS, timeout=2, failure_threshold=STARTUP_FAILURE_THRESHOLD
        ),
        "readinessProbe": _probe("/readyz", period=5, timeout=3, failure_threshold=2),
        "livenessProbe": _probe("/healthz", period=10, timeout=5, failure_threshold=3),
    }


def _probe(path: str, *, period: int, timeout: int, failure_threshold: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": HTTP_PORT_NAME},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failure_threshold,
    }


def _environment(service: DepthService) -> list[dict[str, Any]]:
    model, runtime = service.spec.model, service.spec.runtime
    values = {
        "DEPTH_SERVER_HOST": "0.0.0.0",  # noqa: S104 - a pod is reached at its own address
        "DEPTH_SERVER_PORT": str(HTTP_PORT),
        "DEPTH_SERVER_MODEL_FAMILY": model.family.value,
        "DEPTH_SERVER_MODEL_VARIANT": model.variant.value,
        "DEPTH_SERVER_WEIGHTS": weights_path(service),
        "DEPTH_SERVER_DEVICE": runtime.device.value.lower(),
        "DEPTH_SERVER_PRECISION": runtime.precision.value,
        "DEPTH_SERVER_INPUT_SIZE": str(runtime.input_size),
        "DEPTH_SERVER_MAX_QUEUED_REQUESTS": str(runtime.max_queued_requests),
    }
    if model.sha256:
        values["DEPTH_SERVER_WEIGHTS_SHA256"] = model.sha256
    environment: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in values.items()]
    if "cpu" in service.spec.resources.requests:
        reference = {"containerName": CONTAINER_NAME, "resource": "requests.cpu", "divisor": "1"}
        environment.append({"name": "DEPTH_SERVER_CPU_THREADS", "valueFrom": {"resourceFieldRef": reference}})
    return environment


def weights_path(service: DepthService) -> str:
    """Path of the weights as the server sees it."""
    source = service.spec.model.source
    if source.persistent_volume_claim is not None:
        return f"{WEIGHTS_MOUNT_PATH}/{source.persistent_volume_claim.path}"
    if source.image_bundled is not None:
        return source.image_bundled.path
    raise InvalidSpecError("spec.model.source: exactly one of persistentVolumeClaim and imageBundled must be set")


def _resources(service: DepthService) -> dict[str, dict[str, str]]:
    """CPU and memory as declared, and the GPUs as a limit: extended resources cannot be overcommitted."""
    declared, gpu = service.spec.resources, service.spec.gpu
    limits = {name: str(quantity) for name, quantity in declared.limits.items()}
    if gpu.count:
        limits[gpu.resource_name] = str(gpu.count)
    resources = {"requests": {name: str(quantity) for name, quantity in declared.requests.items()}, "limits": limits}
    return {kind: quantities for kind, quantities in resources.items() if quantities}
