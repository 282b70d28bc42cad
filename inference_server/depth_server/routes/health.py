"""`/healthz`, `/readyz` and `/metrics`: for the kubelet, load balancers and Prometheus."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from depth_server.errors import NotReadyError
from depth_server.problems import problem_response
from depth_server.routes.services import Services, json_response, liveness_complaint, problem_answers
from depth_server.schemas import LiveResponse, ReadyResponse


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the endpoints."""

    @router.get(
        "/healthz",
        summary="Liveness: the process and its engine work",
        operation_id="liveness",
        tags=["health"],
        responses={200: {"model": LiveResponse}, **problem_answers(503)},
        response_class=Response,
    )
    async def healthz() -> Response:
        report = services.health.report
        complaint = liveness_complaint(services, report)
        if complaint:
            return problem_response(NotReadyError(complaint), report)
        return json_response(LiveResponse(state=report.state))

    @router.get(
        "/readyz",
        summary="Readiness: weights are verified, the warm-up is done, the server does not drain",
        operation_id="readiness",
        tags=["health"],
        responses={200: {"model": ReadyResponse}, **problem_answers(503)},
        response_class=Response,
    )
    async def readyz() -> Response:
        report, model = services.health.report, services.runner.model
        if model is None or not report.is_ready:
            return problem_response(NotReadyError(report.detail), report)
        ready = ReadyResponse(
            state=report.state,
            version=services.version,
            model=model.name,
            kind=model.kind,
            device=model.device,
            device_requested=services.settings.device,
            precision=model.precision,
            input_size=services.settings.input_size,
        )
        return json_response(ready)

    @router.get(
        "/metrics",
        summary="Metrics in Prometheus' text format",
        operation_id="metrics",
        tags=["health"],
        responses={200: {"description": "Metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def metrics() -> Response:
        return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)
