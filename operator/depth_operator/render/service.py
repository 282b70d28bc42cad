"""The Service in front of the replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depth_operator.api.naming import HTTP_PORT_NAME, selector_labels
from depth_operator.manifests import Manifest, with_applied_hash
from depth_operator.render.metadata import child_metadata

if TYPE_CHECKING:
    from depth_operator.api.v1alpha1 import DepthService


def render_service(service: DepthService) -> Manifest:
    """A Service of the DepthService's name that sends to ready replicas only."""
    exposure = service.spec.expose.service
    return with_applied_hash(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": child_metadata(service, dict(exposure.annotations)),
            "spec": {
                "type": exposure.type,
                "selector": selector_labels(service.key.name),
                "ports": [
                    {
                        "name": HTTP_PORT_NAME,
                        "port": exposure.port,
                        "protocol": "TCP",
                        "targetPort": HTTP_PORT_NAME,
                        "appProtocol": "http",
                    }
                ],
            },
        }
    )
