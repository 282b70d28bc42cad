"""`POST /predict/batch`."""

from fastapi import APIRouter, Request, Response

from depth_server.query import image_parameters_schema
from depth_server.routes.predict import BINARY, TIMEOUT_PARAMETER, form_schema
from depth_server.routes.services import Services, answer_response, problem_answers
from depth_server.schemas import BatchResponse


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the endpoint."""
    settings = services.settings
    files = {
        "type": "array",
        "minItems": 1,
        "maxItems": settings.max_batch_images,
        "items": BINARY,
        "description": "Images; the field is repeated.",
    }
    body = {"required": True, "content": {"multipart/form-data": {"schema": form_schema(files)}}}

    @router.post(
        "/predict/batch",
        summary="Predict depth of several images; each has a result or an error of its own",
        operation_id="predictBatch",
        tags=["depth"],
        responses={200: {"model": BatchResponse}, **problem_answers()},
        openapi_extra={
            "parameters": [*image_parameters_schema(settings.max_long_side), TIMEOUT_PARAMETER],
            "requestBody": body,
        },
        response_class=Response,
    )
    async def predict_batch(request: Request) -> Response:
        return answer_response(await services.predictor.predict_batch(request))
