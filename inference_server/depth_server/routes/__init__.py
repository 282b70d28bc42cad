"""HTTP endpoints: thin, each one call."""

from fastapi import APIRouter

from depth_server.routes import batch, health, inference_protocol, models, pages, predict
from depth_server.routes.services import Services as Services


def build_router(services: Services) -> APIRouter:
    """Make the endpoints."""
    router = APIRouter()
    for module in (predict, batch, models, inference_protocol, health, pages):
        module.add_routes(router, services)
    return router
