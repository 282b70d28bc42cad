"""`POST /predict`."""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from depth_server.deadlines import TIMEOUT_HEADER
from depth_server.query import predict_parameters_schema
from depth_server.representations import JPEG, NPY, PNG, TIFF
from depth_server.routes.services import Services, answer_response, problem_answers
from depth_server.schemas import PredictResponse
from depth_server.upload import FILE_FIELD

BINARY: Final = {"type": "string", "format": "binary"}
"""Schema of bytes."""

TIMEOUT_PARAMETER: Final[dict[str, Any]] = {
    "name": TIMEOUT_HEADER.title(),
    "in": "header",
    "required": False,
    "description": "How long the client waits; what cannot be answered by then is not begun.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 3_600_000},
}
"""The client's deadline."""

HEADERS: Final[dict[str, dict[str, Any]]] = {
    name: {"description": description, "schema": {"type": kind}}
    for name, kind, description in (
        ("X-Depth-Min", "number", "Smallest depth; level 0 of a 16-bit PNG."),
        ("X-Depth-Max", "number", "Largest depth; level 65535 of a 16-bit PNG."),
        ("X-Depth-Kind", "string", "Meaning of depth: relative_inverse, relative_depth or metric."),
        ("X-Depth-Unit", "string", "Unit of depth: m; absent where there is none."),
        ("X-Depth-Model", "string", "Name of the model."),
        ("X-Depth-Width", "integer", "Pixels, after the EXIF orientation is applied."),
        ("X-Depth-Height", "integer", "Pixels, after the EXIF orientation is applied."),
        ("X-Faces-Blurred", "integer", "Faces that were made unrecognisable; absent where that is off."),
        ("Server-Timing", "string", "Stages in milliseconds: queue, preprocess, forward, postprocess, total."),
    )
}
"""Headers of every representation."""


def form_schema(file: dict[str, Any]) -> dict[str, Any]:
    """Describe a form with the one field."""
    return {"type": "object", "required": [FILE_FIELD], "properties": {FILE_FIELD: file}}


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the endpoint."""
    image = {**BINARY, "description": "A JPEG, PNG, WebP, BMP, TIFF or GIF image."}
    body = {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form_schema(image)},
            "image/*": {"schema": image},
            "application/octet-stream": {"schema": image},
        },
    }
    success = {
        "description": "A depth map, in the representation that the header Accept prefers; JSON by default.",
        "model": PredictResponse,
        "headers": HEADERS,
        "content": {media_type: {"schema": BINARY} for media_type in (PNG, JPEG, TIFF, NPY)},
    }

    @router.post(
        "/predict",
        summary="Predict depth of one image",
        operation_id="predict",
        tags=["depth"],
        responses={200: success, **problem_answers()},
        openapi_extra={
            "parameters": [*predict_parameters_schema(services.settings.max_long_side), TIMEOUT_PARAMETER],
            "requestBody": body,
        },
        response_class=Response,
    )
    async def predict(request: Request) -> Response:
        return answer_response(await services.predictor.predict(request))
