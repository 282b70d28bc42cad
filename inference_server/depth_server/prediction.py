"""What the endpoints compute: depth of one image, of several, or of the tensors of an inference request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import orjson
from fastapi import Request

from depth_server.admission import Permit
from depth_server.answers import DepthMeaning, prediction_answer, prediction_fields, problem_fields
from depth_server.batching import BATCH_SIZES
from depth_server.errors import (
    DepthServerError,
    InvalidParameterError,
    ModelNotFoundError,
    Outcome,
    UploadTooLargeError,
    http_error,
)
from depth_server.inference_request import InferenceRequest, inference_response, parse_inference, renderer
from depth_server.model.variants import ModelSpec
from depth_server.pipeline import EncodedImage, ImagePipeline, ImageSource, Prediction
from depth_server.query import ImageOptions, parse_image_query, parse_predict_query, unique_parameters
from depth_server.representations import (
    JSON,
    DepthMap,
    Representation,
    choose_representation,
    encode_depth,
    encode_depth_png,
)
from depth_server.request_runner import Answer, Compute, RequestRunner, Work
from depth_server.settings import Settings
from depth_server.tensors import split_body
from depth_server.upload import read_body, read_form_files, read_image_file

Rendered = TypeVar("Rendered")

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
"""Length of the JSON in a body that goes on with binary tensor data."""

CONCURRENT_IMAGES: Final = BATCH_SIZES[0]
"""Images of one call that are prepared or computed at a time: a full batch, and the others' images find their turn."""


class Predictor:
    """Answers the endpoints that compute depth.

    Args:
        settings: Bounds.
        spec: The model.
        runner: Runs requests.
        pipeline: Computes depth of an image.
    """

    def __init__(self, *, settings: Settings, spec: ModelSpec, runner: RequestRunner, pipeline: ImagePipeline) -> None:
        self._settings = settings
        self._spec = spec
        self._runner = runner
        self._pipeline = pipeline
        self._max_bytes = min(settings.max_batch_bytes, settings.max_inflight_upload_bytes)

    async def predict(self, request: Request) -> Answer:
        """Answer `POST /predict`.

        Raises:
            DepthServerError: See `errors.HTTP_ERRORS`.
        """
        content_type = request.headers.get("content-type", "")

        async def read(chunks: AsyncIterator[bytes], permit: Permit) -> bytes:
            return await read_image_file(content_type, chunks, permit.add_upload_bytes)

        def plan() -> Compute[bytes]:
            options = parse_predict_query(request.query_params.multi_items(), self._settings.max_long_side)
            check_focal_length(options.image, self._spec)
            representation = choose_representation(accept_header(request), options.colormap)
            return partial(self._predict_one, options=options.image, representation=representation)

        return await self._runner.run(request, read, plan)

    async def predict_batch(self, request: Request) -> Answer:
        """Answer `POST /predict/batch`.

        Raises:
            DepthServerError: What is wrong with the call as a whole; what is wrong with one image stands in its place.
        """
        content_type = request.headers.get("content-type", "")

        async def read(chunks: AsyncIterator[bytes], permit: Permit) -> list[bytes]:
            return await read_form_files(content_type, chunks, permit.add_upload_bytes, self._settings.max_batch_images)

        def plan() -> Compute[list[bytes]]:
            options = parse_image_query(request.query_params.multi_items(), self._settings.max_long_side)
            check_focal_length(options, self._spec)
            choose_representation(accept_header(request), None, (JSON,))
            return partial(self._predict_several, options=options)

        return await self._runner.run(request, read, plan, self._max_bytes)

    async def infer(self, request: Request, model: str) -> Answer:
        """Answer `POST /v2/models/{model}/infer`.

        Raises:
            DepthServerError: See `errors.HTTP_ERRORS`; the protocol has no errors of single images.
        """

        async def read(chunks: AsyncIterator[bytes], permit: Permit) -> bytes:
            return await read_body(chunks, permit.add_upload_bytes)

        def plan() -> Compute[bytes]:
            check_model_name(model, self._spec.name)
            unique_parameters(request.query_params.multi_items(), ())
            return partial(self._infer, header_length=request.headers.get(HEADER_LENGTH))

        return await self._runner.run(request, read, plan, self._max_bytes)

    async def _predict_one(
        self, data: bytes, work: Work, *, options: ImageOptions, representation: Representation
    ) -> Answer:
        source = EncodedImage(data)
        del data
        meaning = DepthMeaning.of(self._spec, work.model.name, options)
        render = partial(encode_depth, representation=representation, kind=meaning.kind)
        computing = self._pipeline.predict(source, options, render, work.permit, deadline=work.deadline)
        del source
        return prediction_answer(await computing, representation, meaning)

    async def _predict_several(self, files: list[bytes], work: Work, *, options: ImageOptions) -> Answer:
        sources = [EncodedImage(data) for data in files]
        results = await self._predict_all(sources, options, encode_depth_png, work)
        meaning = DepthMeaning.of(self._spec, work.model.name, options)
        members = [_batch_member(result, meaning) for result in results]
        outcomes = tuple(
            http_error(type(result)).outcome if isinstance(result, DepthServerError) else Outcome.SUCCESS
            for result in results
        )
        return Answer(orjson.dumps({"results": members}), outcomes=outcomes)

    async def _infer(self, body: bytes, work: Work, *, header_length: str | None) -> Answer:
        inference = await asyncio.to_thread(self._parse, body, header_length)
        results = await self._predict_all(inference.images, inference.options, partial(renderer, inference), work)
        predictions = [_unless_error(result) for result in results]
        meaning = DepthMeaning.of(self._spec, work.model.name, inference.options)
        encoded, length = await asyncio.to_thread(inference_response, inference, predictions, meaning)
        outcomes = (Outcome.SUCCESS,) * len(predictions)
        if length is None:
            return Answer(encoded, outcomes=outcomes)
        return Answer(encoded, {HEADER_LENGTH: str(length)}, "application/octet-stream", outcomes)

    def _parse(self, body: bytes, header_length: str | None) -> InferenceRequest:
        declared, binary = split_body(body, header_length)
        settings = self._settings
        inference = parse_inference(
            declared, binary, max_images=settings.max_batch_images, max_long_side=settings.max_long_side
        )
        check_focal_length(inference.options, self._spec)
        return inference

    async def _predict_all(
        self, sources: Sequence[ImageSource], options: ImageOptions, render: Callable[[DepthMap], Rendered], work: Work
    ) -> list[Prediction[Rendered] | DepthServerError]:
        """Compute depth of each image, or tell what is wrong with it."""
        slots = asyncio.Semaphore(CONCURRENT_IMAGES)

        async def predict(source: ImageSource) -> Prediction[Rendered] | DepthServerError:
            async with slots:
                try:
                    self._check_bytes(source)
                    return await self._pipeline.predict(
                        source, options, render, work.permit, deadline=work.deadline, keeps_upload=True
                    )
                except DepthServerError as error:
                    return error

        # In a group, none outlives the request and its permit.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(predict(source)) for source in sources]
        return [task.result() for task in tasks]

    def _check_bytes(self, source: ImageSource) -> None:
        limit = self._settings.max_upload_bytes
        if isinstance(source, EncodedImage) and len(source.data) > limit:
            message = f"the upload has more than {limit} bytes"
            raise UploadTooLargeError(message)


def check_model_name(given: str, name: str) -> None:
    """Refuse another model than the one that is served.

    Raises:
        ModelNotFoundError: With the name of the one that is.
    """
    if given != name:
        message = f"the model {given[:80]!r} is not served here, {name!r} is"
        raise ModelNotFoundError(message)


def check_focal_length(options: ImageOptions, spec: ModelSpec) -> None:
    """Refuse a focal length that would change nothing.

    Raises:
        InvalidParameterError: The model does not need it.
    """
    if options.focal_length is not None and spec.traits.focal_divisor is None:
        message = f"the parameter 'focal_length' has no meaning for {spec.name}, whose depth is {spec.kind}"
        raise InvalidParameterError(message)


def accept_header(request: Request) -> str:
    """Join the headers `Accept`, as RFC 9110 section 5.3 allows."""
    return ",".join(request.headers.getlist("accept"))


def _batch_member(result: Prediction[bytes] | DepthServerError, meaning: DepthMeaning) -> dict[str, object]:
    if isinstance(result, DepthServerError):
        return {"error": problem_fields(result)}
    return {"prediction": prediction_fields(result, meaning)}


def _unless_error(result: Prediction[Rendered] | DepthServerError) -> Prediction[Rendered]:
    if isinstance(result, DepthServerError):
        raise result
    return result
