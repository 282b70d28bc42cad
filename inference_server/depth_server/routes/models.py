"""`GET /models`."""

from fastapi import APIRouter, Response

from depth_server.errors import NotReadyError
from depth_server.licences import is_restricted
from depth_server.problems import problem_response
from depth_server.routes.services import Services, json_response, problem_answers
from depth_server.schemas import ModelCard, ModelsResponse


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the endpoint."""

    @router.get(
        "/models",
        summary="The model that is served, with its licence and the digest of its weights",
        operation_id="listModels",
        tags=["models"],
        responses={200: {"model": ModelsResponse}, **problem_answers(503)},
        response_class=Response,
    )
    async def models() -> Response:
        report, model, settings = services.health.report, services.runner.model, services.settings
        if model is None:
            return problem_response(NotReadyError(report.detail), report)
        spec = services.spec
        card = ModelCard(
            name=model.name,
            family=spec.family,
            variant=spec.variant,
            kind=model.kind,
            unit=spec.unit,
            license=spec.weights_license,
            license_restricted=is_restricted(spec.weights_license),
            sha256=model.weights_sha256 or settings.weights_sha256 or None,
            repository=settings.weights_repository or None,
            backend=settings.backend,
            device=model.device,
            precision=model.precision,
            input_size=settings.input_size,
            max_long_side=settings.max_long_side,
        )
        return json_response(ModelsResponse(models=[card]))
