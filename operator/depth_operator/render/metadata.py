"""What all children have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from depth_operator.api.naming import API_VERSION, KIND, child_labels

if TYPE_CHECKING:
    from depth_operator.api.v1alpha1 import DepthService


def child_metadata(service: DepthService, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    """Metadata of a child: the DepthService's own name, the labels, the owner reference that deletes it in the end."""
    metadata: dict[str, Any] = {
        "name": service.key.name,
        "namespace": service.key.namespace,
        "labels": child_labels(service.key.name),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": service.key.name,
                "uid": service.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if annotations:
        metadata["annotations"] = annotations
    return metadata
