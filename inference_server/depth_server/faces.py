"""Makes faces unrecognisable before an image is stored, logged or shown to the model.

The detector looks at a small copy, its boxes are made larger, and what lies in them is replaced for good. A detector
that fails, or that is too slow, refuses the image: no image passes unseen. Nothing here logs where a face is.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_server.access_settings import FaceBlurStyle
from depth_server.errors import FaceDetectionError, OverloadedError

logger = logging.getLogger(__name__)

FaceBoxes = NDArray[np.float32]
"""(N, 4): left, top, right, bottom in pixels."""

PIXELATED_CELLS: Final = 6
"""Cells along the longer side of a pixelated face, whatever its size: too few for a face to be told from another."""

SOLID_LEVEL: Final = 128
"""Grey that solid faces are filled with."""


class FaceDetector(Protocol):
    """Finds faces; called by several threads at once."""

    def detect(self, image: NDArray[np.uint8]) -> FaceBoxes:
        """Find faces in (H, W, 3), RGB; may raise anything, which refuses the image."""
        ...


@dataclass(frozen=True, slots=True)
class BlurredImage:
    """An image without recognisable faces.

    Attributes:
        image: (H, W, 3), RGB; the same array as before if there was no face.
        faces: How many were made unrecognisable.
        seconds: Time it took, without waiting.
    """

    image: NDArray[np.uint8]
    faces: int
    seconds: float


def dilate_boxes(boxes: FaceBoxes, factor: float, height: int, width: int) -> NDArray[np.intp]:
    """Make boxes larger around their centres and cut them to the image.

    Args:
        boxes: (N, 4) left, top, right, bottom.
        factor: Of height and width, at least 1.
        height: Of the image.
        width: Of the image.

    Returns:
        (M, 4) left, top, right, bottom, whole pixels, none empty.

    Raises:
        ValueError: A box is NaN or infinite.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        message = "the detector gave no finite boxes of four corners"
        raise ValueError(message)
    # In float64: a factor may overflow what the detector gave.
    corners = boxes.astype(np.float64)
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    half = np.abs(corners[:, 2:] - corners[:, :2]) / 2 * factor
    limits = (width, height)
    low = np.clip(np.floor(centre - half), 0, limits).astype(np.intp)
    high = np.clip(np.ceil(centre + half), 0, limits).astype(np.intp)
    dilated = np.concatenate((low, high), axis=1)
    return dilated[(high > low).all(axis=1)]


def blur_boxes(image: NDArray[np.uint8], boxes: NDArray[np.intp], style: FaceBlurStyle) -> NDArray[np.uint8]:
    """Replace what lies in boxes.

    Args:
        image: (H, W, 3); not changed.
        boxes: (N, 4) left, top, right, bottom, within the image and not empty.
        style: How.
    """
    if style is FaceBlurStyle.OFF or not len(boxes):
        return image
    blurred = np.array(image, order="C")
    for left, top, right, bottom in boxes.tolist():
        # Of the original: where boxes overlap, nothing of one may come back through the other.
        region = np.ascontiguousarray(image[top:bottom, left:right])
        blurred[top:bottom, left:right] = SOLID_LEVEL if style is FaceBlurStyle.SOLID else pixelate(region)
    return blurred


def pixelate(region: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reduce a region to a few averages and smooth their edges away.

    The averages are all that is left of it, so no filter brings it back; the smoothing only spares the depth model
    edges that are not in the scene.

    Args:
        region: (H, W, 3)
    """
    height, width = region.shape[:2]
    cell = max(height, width) / PIXELATED_CELLS
    cells = (max(1, min(width, round(width / cell))), max(1, min(height, round(height / cell))))
    averages = cv2.resize(region, cells, interpolation=cv2.INTER_AREA)
    mosaic = cv2.resize(averages, (width, height), interpolation=cv2.INTER_NEAREST)
    smooth = cv2.GaussianBlur(mosaic, (0, 0), sigmaX=max(cell / 2, 0.5))
    return np.asarray(smooth, dtype=np.uint8)


class FaceBlur:
    """Blurs faces of images in threads of its own, so many at a time.

    Args:
        detector: Finds them.
        style: What happens to them.
        dilation: How much larger than its box the replaced part is.
        threads: Runs the detector; its size is how many images are looked at at once.
        max_pending: Images that are looked at or wait for it.
        timeout_seconds: From hand-over to result.
        observe: Told the seconds and the number of faces of every image.
    """

    def __init__(
        self,
        detector: FaceDetector,
        *,
        style: FaceBlurStyle,
        dilation: float,
        threads: Executor,
        max_pending: int,
        timeout_seconds: float,
        observe: Callable[[float, int], None],
    ) -> None:
        self._detector = detector
        self._style = style
        self._dilation = dilation
        self._threads = threads
        self._max_pending = max_pending
        self._timeout = timeout_seconds
        self._observe = observe
        self._pending = 0

    @property
    def pending(self) -> int:
        """Images that are looked at or wait for it."""
        return self._pending

    async def apply(self, image: NDArray[np.uint8]) -> BlurredImage:
        """Return the image without recognisable faces.

        Args:
            image: (H, W, 3), RGB.

        Raises:
            OverloadedError: Too many images wait.
            FaceDetectionError: The detector failed or was too slow; the image must not be used.
        """
        if self._pending >= self._max_pending:
            message = f"{self._pending} images wait for face detection, which is the limit"
            raise OverloadedError(message, retry_after_seconds=max(1, math.ceil(self._timeout / 2)))
        loop = asyncio.get_running_loop()
        work = self._threads.submit(self._blur, image)
        self._pending += 1

        def finish(_: Future[BlurredImage]) -> None:
            # A thread that nobody waits for any more still has its image and counts until it is done.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._release)

        work.add_done_callback(finish)
        try:
            blurred = await asyncio.wait_for(asyncio.wrap_future(work), self._timeout)
        except TimeoutError as error:
            message = f"faces were not looked for within {self._timeout:g} s, and no image is used unseen"
            raise FaceDetectionError(message) from error
        self._observe(blurred.seconds, blurred.faces)
        return blurred

    def close(self) -> None:
        """Give up what waits; what runs is left to finish."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _release(self) -> None:
        self._pending -= 1

    def _blur(self, image: NDArray[np.uint8]) -> BlurredImage:
        began = time.perf_counter()
        try:
            boxes = dilate_boxes(self._detector.detect(image), self._dilation, image.shape[0], image.shape[1])
            blurred = blur_boxes(image, boxes, self._style)
        except Exception as error:
            # The outermost boundary of whatever detector is plugged in: every failure of it refuses the image.
            logger.exception("face detection failed, the image is refused")
            message = "faces could not be looked for, and no image is used unseen"
            raise FaceDetectionError(message) from error
        return BlurredImage(blurred, len(boxes), time.perf_counter() - began)
