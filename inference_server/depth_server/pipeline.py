"""The way of one image, whatever protocol it came by: decode, blur faces, resize, forward, resize back, encode.

Work on pixels runs in a pool of threads, where numpy, OpenCV and Pillow release the interpreter lock; the event loop
only waits. Stages are joined in as few calls of the pool as possible: one before the engine and one after it, or two
where faces are looked for in between. Nothing here knows HTTP.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from depth_server.admission import Permit
from depth_server.decode import ImageLimits, check_size, decode_image
from depth_server.engine import Engine, EngineResult
from depth_server.errors import InvalidRequestError
from depth_server.faces import FaceBlur
from depth_server.metrics import ServerMetrics
from depth_server.model.focal import metres_per_value
from depth_server.model.variants import ModelSpec, ResizeBound
from depth_server.postprocess import Upsampling, resize_depth, resize_nearest
from depth_server.preprocess import Size, input_size, preprocess, preprocess_fast
from depth_server.query import ImageOptions
from depth_server.representations import DepthMap
from depth_server.settings import Settings
from depth_server.shape_buckets import nearest_bucket

Result = TypeVar("Result")
Rendered = TypeVar("Rendered")
Source = TypeVar("Source")


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image file as it was received."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels, (H, W, 3), RGB."""

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """Pixels as the network takes them, (3, H, W), resized and normalised by the client."""

    pixel_values: NDArray[np.float32]


ImageSource = EncodedImage | DecodedImage | NetworkInput


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Time that an image took in each stage, without waiting for threads.

    Attributes:
        queue: Wait for the engine.
        preprocess: Decode, resize and normalise.
        forward: Forward pass.
        postprocess: Resize to the source and encode.
    """

    queue: float
    preprocess: float
    forward: float
    postprocess: float


@dataclass(frozen=True, slots=True)
class Prediction(Generic[Rendered]):
    """Depth of one image.

    Attributes:
        rendered: What the renderer made of it.
        size: Of the source.
        minimum: Smallest depth.
        maximum: Largest depth.
        faces_blurred: How many faces were made unrecognisable; None where they are not looked for.
        stages: Time it took.
        seconds: From the complete upload to the rendered depth.
    """

    rendered: Rendered
    size: Size
    minimum: float
    maximum: float
    faces_blurred: int | None
    stages: StageSeconds
    seconds: float


@dataclass(frozen=True, slots=True)
class Submission:
    """An image in the engine's queue.

    Attributes:
        future: Its depth.
        source: Its size.
        input: Size of the network's input.
        seconds: Time it took to prepare.
    """

    future: Future[EngineResult]
    source: Size
    input: Size
    seconds: float


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Decides the size of the network's input.

    Attributes:
        input_size: The server's input size.
        max_long_side: Longest side of any input.
        bound: Which side of the image the input size bounds.
    """

    input_size: int
    max_long_side: int
    bound: ResizeBound

    def choose(self, source: Size, options: ImageOptions) -> Size:
        """Give upstream's size, or that of the nearest bucket."""
        bound = options.size or self.input_size
        # Where the longer side is bounded, the shorter one follows: the rule of the cap.
        longest = bound if self.bound is ResizeBound.UPPER else max(self.max_long_side, bound)
        return (input_size if options.exact else nearest_bucket)(source, bound, longest)


class ImagePipeline:
    """Computes depth of images.

    Args:
        settings: Bounds.
        spec: The model.
        engine: Runs it.
        metrics: Told of every image.
        codecs: Threads for work on pixels.
        faces: Makes faces unrecognisable before anything else sees the image; None leaves them.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        spec: ModelSpec,
        engine: Engine,
        metrics: ServerMetrics,
        codecs: Executor,
        faces: FaceBlur | None = None,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._codecs = codecs
        self._faces = faces
        self._limits = ImageLimits(settings.max_pixels, settings.max_side_pixels)
        self._sizes = SizeRule(settings.input_size, settings.max_long_side, spec.traits.resize_bound)
        self._spec = spec

    @property
    def blurs_faces(self) -> bool:
        """Whether no image may be used unseen."""
        return self._faces is not None

    async def predict(
        self,
        source: ImageSource,
        options: ImageOptions,
        render: Callable[[DepthMap], Rendered],
        permit: Permit,
        *,
        deadline: float,
        keeps_upload: bool = False,
    ) -> Prediction[Rendered]:
        """Compute depth of one image.

        Args:
            source: Bound to no name by the caller, so that it can be freed as soon as it is decoded.
            options: How.
            render: Makes the answer's part of the depth; runs in the pool.
            permit: Of the request; its lane is the image's.
            deadline: When nobody wants the depth any more, in seconds of `time.monotonic`.
            keeps_upload: Whether the bytes of the request are still needed when this image is decoded.

        Raises:
            DepthServerError: What is wrong with the image, the engine or the time.
        """
        began = time.perf_counter()
        submitting = self._submit(source, options, permit, deadline, keeps_upload=keeps_upload)
        del source
        submission, faces_blurred = await submitting
        permit.set_work_units(permit.work_units + submission.input.work_units)
        result = await asyncio.wrap_future(submission.future)
        permit.observe_engine(result.queue_seconds + result.forward_seconds)
        finish = partial(finish_depth, result.depth, submission.source, options, render, self._spec)
        depth_map, rendered, seconds = await self._in_pool(finish)
        stages = StageSeconds(result.queue_seconds, submission.seconds, result.forward_seconds, seconds)
        elapsed = time.perf_counter() - began
        self._metrics.observe_request(elapsed)
        self._metrics.observe_stages(
            queue=stages.queue, preprocess=stages.preprocess, forward=stages.forward, postprocess=stages.postprocess
        )
        return Prediction(
            rendered, submission.source, depth_map.minimum, depth_map.maximum, faces_blurred, stages, elapsed
        )

    async def _submit(
        self, source: ImageSource, options: ImageOptions, permit: Permit, deadline: float, *, keeps_upload: bool
    ) -> tuple[Submission, int | None]:
        """Prepare the image and hand it to the engine; also tell how many faces were blurred, if they are looked for.

        The engine gets it in the pool, since one in another process copies the pixels.
        """
        upload = None if keeps_upload else permit
        submit = partial(self._engine.submit, deadline=deadline, lane=permit.lane)
        if self._faces is None or isinstance(source, NetworkInput):
            self._check_unseen(source)
            prepare = partial(self._prepare_and_submit, options=options, submit=submit, seconds=0.0)
            work = self._begin([source], prepare, upload)
            del source
            return await abandonable(work), None
        decoding = self._begin([source], partial(decode_timed, limits=self._limits), upload)
        del source
        image, seconds = await asyncio.wrap_future(decoding)
        blurred = await self._faces.apply(image)
        del image
        prepare = partial(self._prepare_and_submit, options=options, submit=submit, seconds=seconds)
        work = self._begin([DecodedImage(blurred.image)], prepare, None)
        return await abandonable(work), blurred.faces

    def _check_unseen(self, source: ImageSource) -> None:
        if self._faces is not None and isinstance(source, NetworkInput):
            message = "faces are blurred here, which a prepared tensor does not allow; send an image"
            raise InvalidRequestError(message)

    def _prepare_and_submit(
        self,
        source: ImageSource,
        options: ImageOptions,
        submit: Callable[[NDArray[np.float32]], Future[EngineResult]],
        seconds: float,
    ) -> Submission:
        began = time.perf_counter()
        if isinstance(source, NetworkInput):
            pixel_values, size = source.pixel_values, Size(*source.pixel_values.shape[1:])
        else:
            pixels, _ = decode_timed(source, self._limits)
            size = Size(pixels.shape[0], pixels.shape[1])
            resize = preprocess if options.exact else preprocess_fast
            pixel_values = resize(pixels, self._sizes.choose(size, options))
        seconds += time.perf_counter() - began
        return Submission(submit(pixel_values), size, Size(*pixel_values.shape[1:]), seconds)

    def _begin(self, held: list[Source], call: Callable[[Source], Result], upload: Permit | None) -> Future[Result]:
        """Call in the pool; an upload stays accounted for until nothing holds it, also where the request is gone.

        Args:
            held: The call's argument, alone; taken from it when a thread comes to the call.
            call: What to do.
            upload: Accounts for the bytes of the argument; None if somebody else does.
        """
        loop = asyncio.get_running_loop()
        future = self._codecs.submit(lambda: call(held.pop()))
        release = upload.hand_over_upload_bytes() if upload is not None else None

        def let_go(_: object) -> None:
            held.clear()  # the pool keeps a call that was cancelled in its queue until a thread comes to it
            if release is not None:
                with contextlib.suppress(RuntimeError):  # the loop was closed while the pool still decoded
                    loop.call_soon_threadsafe(release)

        future.add_done_callback(let_go)
        return future

    def _in_pool(self, call: Callable[[], Result]) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._codecs, call)


def decode_timed(source: EncodedImage | DecodedImage, limits: ImageLimits) -> tuple[NDArray[np.uint8], float]:
    """Give the pixels, (H, W, 3), RGB, and the seconds it took to decode them.

    Raises:
        DepthServerError: What is wrong with the image.
    """
    began = time.perf_counter()
    if isinstance(source, EncodedImage):
        pixels = decode_image(source.data, limits)
    else:
        pixels = source.pixels
        check_size(Size(pixels.shape[0], pixels.shape[1]), limits)
    return pixels, time.perf_counter() - began


def finish_depth(
    depth: NDArray[np.float32],
    source: Size,
    options: ImageOptions,
    render: Callable[[DepthMap], Rendered],
    spec: ModelSpec,
) -> tuple[DepthMap, Rendered, float]:
    """Bring depth to the size of its source and, if the focal length is known, to metres, and render it.

    Returns:
        The depth, what the renderer made of it, and the seconds it took.
    """
    began = time.perf_counter()
    if options.upsampling is Upsampling.NEAREST:
        resized = resize_nearest(depth, source)
    else:
        resized = resize_depth(depth, source, align_corners=spec.align_corners)
    if options.focal_length is not None:
        factor = metres_per_value(spec, options.focal_length, source.width, depth.shape[1])
        resized = resized * np.float32(1.0 if factor is None else factor)
    depth_map = DepthMap.of(resized)
    rendered = render(depth_map)
    return depth_map, rendered, time.perf_counter() - began


async def abandonable(work: Future[Submission]) -> Submission:
    """Wait for a submission; if nobody waits any more, it is not begun, or the engine is told when it is done."""
    try:
        return await asyncio.wrap_future(work)
    except asyncio.CancelledError:
        work.add_done_callback(_abandon)
        raise


def _abandon(work: Future[Submission]) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().future.cancel()
