"""Names, labels and annotations that the operator gives away. A stable API."""

from __future__ import annotations

from typing import Final, NamedTuple

GROUP: Final = "depthserving.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "DepthService"
PLURAL: Final = "depthservices"

FIELD_MANAGER: Final = "depth-operator"
"""Owner, as server-side apply means it, of every field that the operator renders; also the source of its Events."""
REPLICAS_FIELD_MANAGER: Final = "depth-operator-replicas"
"""Owner of a Deployment's ``spec.replicas`` from the hand-over until the HorizontalPodAutoscaler first writes it."""

APPLIED_HASH_ANNOTATION: Final = f"{GROUP}/applied-hash"
"""Hash of the manifest that was applied last; shows a removed field, which the live object alone cannot show."""
TEMPLATE_HASH_ANNOTATION: Final = f"{GROUP}/template-hash"
"""On a pod: hash of the pod template that the operator rendered; tells pods of the present configuration."""

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
INSTANCE_LABEL: Final = "app.kubernetes.io/instance"
NAME_LABEL: Final = "app.kubernetes.io/name"

CONTAINER_NAME: Final = "depth-server"
HTTP_PORT_NAME: Final = "http"
HTTP_PORT: Final = 8000
"""Port of the server in its pod."""
WEIGHTS_MOUNT_PATH: Final = "/weights"

EXTERNAL_METRIC: Final = "depthservice_desired_replicas"
"""The external metric that carries the operator's decision to the HorizontalPodAutoscaler."""
EXTERNAL_METRIC_LABEL: Final = "depthservice"
"""Label of the external metric; its value is the DepthService's name."""


class Key(NamedTuple):
    """Identifies a DepthService, and each of its children, which carry the same name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def selector_labels(name: str) -> dict[str, str]:
    """Labels that select the pods of one DepthService; immutable in a Deployment, so never extended."""
    return {NAME_LABEL: "depth-server", INSTANCE_LABEL: name}


def child_labels(name: str) -> dict[str, str]:
    """Labels of every child and pod of one DepthService."""
    return {
        **selector_labels(name),
        "app.kubernetes.io/component": "inference",
        "app.kubernetes.io/part-of": "depth-serving",
        MANAGED_BY_LABEL: FIELD_MANAGER,
    }


def label_selector(labels: dict[str, str]) -> str:
    """Equality-based selector in its textual form, sorted so that equal labels give equal text."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
