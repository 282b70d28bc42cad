"""HTTP endpoints: thin, each one call."""

from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from depth_server.engine import Engine
from depth_server.errors import CLIENT_CLOSED_REQUEST, HTTP_ERRORS, PROBLEM_MEDIA_TYPE, NotReadyError
from depth_server.health import Health, HealthReport
from depth_server.metrics import ServerMetrics
from depth_server.prediction import Predictor
from depth_server.problems import problem_response
from depth_server.schemas import LiveResponse, PredictResponse, Problem, ReadyResponse
from depth_server.settings import Settings
from depth_server.upload import FILE_FIELD

PREDICT_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FILE_FIELD],
                    "properties": {
                        FILE_FIELD: {
                            "type": "string",
                            "format": "binary",
                            "description": "A JPEG, PNG, WebP, BMP, TIFF or GIF image.",
                        }
                    },
                }
            }
        },
    }
}
"""The body of `/predict` for OpenAPI: it is read as a stream, so FastAPI cannot know it from a signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the endpoints need."""

    settings: Settings
    engine: Engine
    health: Health
    metrics: ServerMetrics
    predictor: Predictor
    version: str


def build_router(services: Services) -> APIRouter:
    """Make the endpoints."""
    router = APIRouter()

    @router.post(
        "/predict",
        summary="Predict depth of one image",
        responses={200: {"model": PredictResponse}, **_problems()},
        openapi_extra=PREDICT_BODY,
    )
    async def predict(request: Request) -> Response:
        answer = await services.predictor.predict(request)
        return Response(answer.body, headers=answer.headers, media_type="application/json")

    @router.get(
        "/healthz",
        summary="Liveness: the process and its engine work",
        responses={200: {"model": LiveResponse}, **_problems(503)},
    )
    async def healthz() -> Response:
        report = services.health.report
        complaint = liveness_complaint(services, report)
        if complaint:
            return problem_response(NotReadyError(complaint), report)
        return _json(LiveResponse(state=report.state))

    @router.get(
        "/readyz",
        summary="Readiness: weights are verified, the warm-up is done, the server does not drain",
        responses={200: {"model": ReadyResponse}, **_problems(503)},
    )
    async def readyz() -> Response:
        report, model = services.health.report, services.predictor.model
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
        return _json(ready)

    @router.get("/metrics", summary="Metrics in Prometheus' text format", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def liveness_complaint(services: Services, report: HealthReport) -> str | None:
    """Say why the process should be restarted; None if it should not."""
    if not report.is_live:
        return report.detail
    seconds, limit = services.engine.current_forward_seconds(), services.settings.max_forward_seconds
    if seconds > limit:
        return f"a forward pass has been running for {seconds:.0f} s, the limit is {limit:g} s"
    return None


def _json(body: LiveResponse | ReadyResponse) -> Response:
    return Response(body.model_dump_json(), media_type="application/json")


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error answers; all that are ever sent if no status is named."""
    titles: dict[int, list[str]] = {}
    for row in HTTP_ERRORS.values():
        if row.status != CLIENT_CLOSED_REQUEST and (not statuses or row.status in statuses):
            titles.setdefault(row.status, []).append(row.title)
    content = {PROBLEM_MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": "; ".join(texts), "content": content} for status, texts in sorted(titles.items())}
