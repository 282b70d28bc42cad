"""One prediction from request to answer: admit, receive, decode, forward, encode.

Work on pixels runs in a pool of threads, where numpy, OpenCV and Pillow release the interpreter lock; the event loop
only waits. A request that is refused, too late or abandoned stops at the next step and costs no forward pass.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import orjson
import pybase64
from fastapi import Request
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from depth_server.admission import Admission, Permit
from depth_server.decode import ImageLimits, decode_image
from depth_server.engine import Engine, ModelInfo, retry_after
from depth_server.errors import (
    ClientDisconnectedError,
    ConnectionLimitError,
    DeadlineExceededError,
    DepthServerError,
    InvalidRequestError,
    NotReadyError,
    Outcome,
    UploadTimeoutError,
    http_error,
)
from depth_server.health import Health
from depth_server.metrics import ServerMetrics
from depth_server.postprocess import encode_png, quantise_depth, resize_depth
from depth_server.preprocess import Size, input_size, preprocess
from depth_server.settings import Settings
from depth_server.upload import read_form_file

Result = TypeVar("Result")

DISCARD_SECONDS: Final = 2.0
"""How long the rest of a refused body is read: a client that still sends may never see an answer that comes with a
closed connection."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image ready for the engine.

    Attributes:
        pixel_values: (3, H, W).
        source: Size of the image it came from.
        seconds: Time it took.
    """

    pixel_values: NDArray[np.float32]
    source: Size
    seconds: float


@dataclass(frozen=True, slots=True)
class RenderedDepth:
    """Depth ready for the answer.

    Attributes:
        png: 16-bit grey PNG at the size of the source.
        minimum: Depth of level 0.
        maximum: Depth of level 65535.
        seconds: Time it took.
    """

    png: bytes
    minimum: float
    maximum: float
    seconds: float


def prepare_image(data: bytes, limits: ImageLimits, lower_bound: int, max_long_side: int) -> PreparedImage:
    """Decode, resize and normalise."""
    began = time.perf_counter()
    image = decode_image(data, limits)
    source = Size(image.shape[0], image.shape[1])
    pixel_values = preprocess(image, input_size(source, lower_bound, max_long_side))
    return PreparedImage(pixel_values, source, time.perf_counter() - began)


def render_depth(depth: NDArray[np.float32], source: Size, *, align_corners: bool) -> RenderedDepth:
    """Resize to the source, quantise and encode."""
    began = time.perf_counter()
    quantised = quantise_depth(resize_depth(depth, source, align_corners=align_corners))
    png = encode_png(quantised.levels)
    return RenderedDepth(png, quantised.minimum, quantised.maximum, time.perf_counter() - began)


class Body:
    """A request's body, counted and read at most once."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.is_complete = False
        self._is_begun = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives."""
        self._is_begun = True
        async for chunk in self._request.stream():
            if chunk:
                yield chunk
        self.is_complete = True

    async def discard(self, max_bytes: int) -> None:
        """Read and drop what is left, within bounds."""
        if self.is_complete:
            return
        if not self._is_begun and "expect" in self._request.headers:
            return  # the client waits for a go-ahead and has sent nothing
        dropped = 0
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while dropped <= max_bytes:
                    message = await self._request.receive()
                    dropped += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return


class Predictor:
    """Answers `POST /predict`.

    Args:
        settings: Bounds.
        engine: Runs the model.
        health: Whether to serve at all.
        admission: Bounds in number and bytes.
        metrics: Told of every request.
        codecs: Threads for work on pixels.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        engine: Engine,
        health: Health,
        admission: Admission,
        metrics: ServerMetrics,
        codecs: Executor,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._health = health
        self._admission = admission
        self._metrics = metrics
        self._codecs = codecs
        self._limits = ImageLimits(settings.max_pixels, settings.max_side_pixels)
        self.model: ModelInfo | None = None

    async def predict(self, request: Request) -> bytes:
        """Answer one request.

        Returns:
            JSON, as `PredictResponse` documents it.

        Raises:
            DepthServerError: See `errors.HTTP_ERRORS`.
        """
        outcome = Outcome.FAILED
        body = Body(request)
        try:
            answer = await self._predict(request, body)
            outcome = Outcome.SUCCESS
        except DepthServerError as error:
            outcome = http_error(type(error)).outcome
            if not isinstance(error, (UploadTimeoutError, ClientDisconnectedError, ConnectionLimitError)):
                await body.discard(self._settings.max_upload_bytes)
            raise
        except asyncio.CancelledError:
            outcome = Outcome.UNAVAILABLE
            raise
        finally:
            self._metrics.count_request(outcome)
        return answer

    async def _predict(self, request: Request, body: Body) -> bytes:
        report, model = self._health.report, self.model
        if model is None or not self._health.accepts_requests:
            message = f"the server is in the state {report.state}: {report.detail}"
            raise NotReadyError(message)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal():
            self._admission.check_upload_bytes(int(announced))
        with self._admission.admit(retry_after(self._engine.expected_wait_seconds)) as permit:
            # The upload is bound to no name here, so that it can be freed as soon as it is decoded.
            computation = self._compute(await self._receive(request, body, permit), permit, model)
            return await self._finish_in_time(request, computation)

    async def _receive(self, request: Request, body: Body, permit: Permit) -> bytes:
        content_type = request.headers.get("content-type", "")
        try:
            async with asyncio.timeout(self._settings.upload_timeout_seconds), aclosing(body.chunks()) as chunks:
                return await read_form_file(content_type, chunks, permit.add_upload_bytes)
        except TimeoutError as error:
            message = f"the body did not arrive within {self._settings.upload_timeout_seconds:g} s"
            raise UploadTimeoutError(message) from error
        except ClientDisconnect as error:
            message = "the client left during its upload"
            raise InvalidRequestError(message) from error

    async def _finish_in_time(self, request: Request, computation: Coroutine[Any, Any, bytes]) -> bytes:
        """Wait for the computation, its deadline or the client's departure, whichever comes first."""
        limit = self._settings.request_timeout_seconds
        work = asyncio.create_task(computation)
        departure = asyncio.create_task(_wait_for_disconnect(request))
        try:
            done, _ = await asyncio.wait({work, departure}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if work in done:
                return work.result()
            if departure in done:
                message = "the client left before its answer was ready"
                raise ClientDisconnectedError(message)
            message = f"the request was not finished within {limit:g} s"
            raise DeadlineExceededError(message)
        finally:
            work.cancel()
            departure.cancel()
            await asyncio.gather(work, departure, return_exceptions=True)

    async def _compute(self, data: bytes, permit: Permit, model: ModelInfo) -> bytes:
        began = time.perf_counter()
        preparation = self._prepare([data], permit)
        del data
        prepared = await preparation
        height, width = prepared.pixel_values.shape[1:]
        permit.set_work_units(Size(height, width).work_units)
        result = await asyncio.wrap_future(self._engine.submit(prepared.pixel_values))
        rendered = await self._in_pool(_render, result.depth, prepared.source, model.align_corners)
        elapsed = time.perf_counter() - began
        answer = orjson.dumps(
            {
                "depth_map": pybase64.b64encode_as_string(rendered.png),
                "processing_time": elapsed,
                "width": prepared.source.width,
                "height": prepared.source.height,
                "min": rendered.minimum,
                "max": rendered.maximum,
                "kind": model.kind,
                "model": model.name,
            }
        )
        self._metrics.observe_request(elapsed)
        self._metrics.observe_stages(
            queue=result.queue_seconds,
            preprocess=prepared.seconds,
            forward=result.forward_seconds,
            postprocess=rendered.seconds,
        )
        return answer

    def _prepare(self, upload: list[bytes], permit: Permit) -> asyncio.Future[PreparedImage]:
        """Decode in the pool; the bytes stay accounted for until nothing holds them, also where the request is gone."""
        loop, settings = asyncio.get_running_loop(), self._settings

        def call() -> PreparedImage:
            return prepare_image(upload.pop(), self._limits, settings.input_size, settings.max_long_side)

        def give_up(_: object) -> None:
            upload.clear()  # the pool keeps a call that was cancelled in its queue until a thread comes to it
            with contextlib.suppress(RuntimeError):  # the loop was closed while the pool still decoded
                loop.call_soon_threadsafe(release)

        future = self._codecs.submit(call)
        release = permit.hand_over_upload_bytes()
        future.add_done_callback(give_up)
        return asyncio.wrap_future(future)

    def _in_pool(self, call: Callable[..., Result], *args: object) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._codecs, call, *args)


def _render(depth: NDArray[np.float32], source: Size, align_corners: bool) -> RenderedDepth:  # noqa: FBT001 executors pass no keywords
    return render_depth(depth, source, align_corners=align_corners)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
