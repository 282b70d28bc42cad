"""What a DepthService's children should be. Pure: the same input gives the same manifests, on any machine."""

from __future__ import annotations

from depth_operator.render.autoscaler import render_autoscaler
from depth_operator.render.deployment import render_deployment
from depth_operator.render.service import render_service

__all__ = ["render_autoscaler", "render_deployment", "render_service"]
