"""What the endpoints have in common."""

from dataclasses import dataclass
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from depth_server.engine import Engine
from depth_server.errors import CLIENT_CLOSED_REQUEST, HTTP_ERRORS, PROBLEM_MEDIA_TYPE
from depth_server.health import Health, HealthReport
from depth_server.metrics import ServerMetrics
from depth_server.model.variants import ModelSpec
from depth_server.prediction import Predictor
from depth_server.request_runner import Answer, RequestRunner
from depth_server.schemas import Problem
from depth_server.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the endpoints need."""

    settings: Settings
    spec: ModelSpec
    engine: Engine
    health: Health
    metrics: ServerMetrics
    runner: RequestRunner
    predictor: Predictor
    version: str


def liveness_complaint(services: Services, report: HealthReport) -> str | None:
    """Say why the process should be restarted; None if it should not."""
    if not report.is_live:
        return report.detail
    seconds, limit = services.engine.current_forward_seconds(), services.settings.max_forward_seconds
    if seconds > limit:
        return f"a forward pass has been running for {seconds:.0f} s, the limit is {limit:g} s"
    return None


def answer_response(answer: Answer) -> Response:
    """Send an answer."""
    return Response(answer.body, headers=answer.headers, media_type=answer.media_type)


def json_response(body: BaseModel) -> Response:
    """Send a document."""
    return Response(body.model_dump_json(), media_type="application/json")


def problem_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error answers; all that are ever sent if no status is named."""
    titles: dict[int, list[str]] = {}
    for row in HTTP_ERRORS.values():
        if row.status != CLIENT_CLOSED_REQUEST and (not statuses or row.status in statuses):
            titles.setdefault(row.status, []).append(row.title)
    content = {PROBLEM_MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": "; ".join(texts), "content": content} for status, texts in sorted(titles.items())}
