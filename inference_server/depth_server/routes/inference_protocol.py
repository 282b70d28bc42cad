"""`/v2`: the Open Inference Protocol with the binary tensor data extension.

Errors are the same problem documents as everywhere, with the member `error` that the protocol asks for beside.
"""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from depth_server.errors import NotReadyError
from depth_server.inference_request import model_metadata
from depth_server.prediction import HEADER_LENGTH, check_model_name
from depth_server.problems import problem_response
from depth_server.routes.predict import BINARY, TIMEOUT_PARAMETER
from depth_server.routes.services import (
    Services,
    answer_response,
    json_response,
    liveness_complaint,
    problem_answers,
)
from depth_server.schemas import (
    INFERENCE_REQUEST_SCHEMA,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)

EXTENSIONS: Final = ("binary_tensor_data",)
"""Extensions of the protocol that are served."""

SERVER_NAME: Final = "depth-server"

LENGTH_PARAMETER: Final[dict[str, Any]] = {
    "name": HEADER_LENGTH,
    "in": "header",
    "required": False,
    "description": "Length of the JSON, where binary tensor data follows it.",
    "schema": {"type": "integer", "minimum": 0},
}


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the endpoints."""
    _add_server_routes(router, services)
    _add_model_routes(router, services)


def _add_server_routes(router: APIRouter, services: Services) -> None:
    @router.get(
        "/v2",
        summary="What this server is",
        operation_id="serverMetadata",
        tags=["inference protocol"],
        responses={200: {"model": ServerMetadata}},
        response_class=Response,
    )
    async def server() -> Response:
        return json_response(ServerMetadata(name=SERVER_NAME, version=services.version, extensions=list(EXTENSIONS)))

    @router.get(
        "/v2/health/live",
        summary="Liveness, as /healthz",
        operation_id="serverLive",
        tags=["inference protocol"],
        responses={200: {"model": ServerLive}, **problem_answers(503)},
        response_class=Response,
    )
    async def live(request: Request) -> Response:
        report = services.health.report
        complaint = liveness_complaint(services, report)
        if complaint:
            return problem_response(NotReadyError(complaint), report, path=request.url.path)
        return json_response(ServerLive(live=True))

    @router.get(
        "/v2/health/ready",
        summary="Readiness, as /readyz",
        operation_id="serverReady",
        tags=["inference protocol"],
        responses={200: {"model": ServerReady}, **problem_answers(503)},
        response_class=Response,
    )
    async def ready(request: Request) -> Response:
        report = services.health.report
        if services.runner.model is None or not report.is_ready:
            return problem_response(NotReadyError(report.detail), report, path=request.url.path)
        return json_response(ServerReady(ready=True))


def _add_model_routes(router: APIRouter, services: Services) -> None:
    name = services.spec.name

    @router.get(
        "/v2/models/{model}",
        summary="Inputs and outputs of the model",
        operation_id="modelMetadata",
        tags=["inference protocol"],
        responses={200: {"model": ModelMetadata}, **problem_answers(404)},
        response_class=Response,
    )
    async def metadata(model: str) -> Response:
        check_model_name(model, name)
        return json_response(ModelMetadata.model_validate(model_metadata(name)))

    @router.get(
        "/v2/models/{model}/ready",
        summary="Readiness of the model",
        operation_id="modelReady",
        tags=["inference protocol"],
        responses={200: {"model": ModelReady}, **problem_answers(404, 503)},
        response_class=Response,
    )
    async def model_ready(model: str, request: Request) -> Response:
        check_model_name(model, name)
        report = services.health.report
        if services.runner.model is None or not report.is_ready:
            return problem_response(NotReadyError(report.detail), report, path=request.url.path)
        return json_response(ModelReady(name=name, ready=True))

    body = {
        "required": True,
        "content": {
            "application/json": {"schema": INFERENCE_REQUEST_SCHEMA},
            "application/octet-stream": {"schema": BINARY},
        },
    }

    @router.post(
        "/v2/models/{model}/infer",
        summary="Depth of the images in a tensor",
        operation_id="modelInfer",
        tags=["inference protocol"],
        responses={
            200: {"model": InferenceResponse, "content": {"application/octet-stream": {"schema": BINARY}}},
            **problem_answers(),
        },
        openapi_extra={"parameters": [LENGTH_PARAMETER, TIMEOUT_PARAMETER], "requestBody": body},
        response_class=Response,
    )
    async def infer(model: str, request: Request) -> Response:
        return answer_response(await services.predictor.infer(request, model))
