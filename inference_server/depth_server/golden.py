"""Golden images: before the server is ready, its output on fixed images is compared with fp32 on the CPU.

A wrong kernel, an overflow in half precision or a lossy quantisation gives a picture like any other; an HTTP 200 with
a black map passes every probe. Comparing with the same weights in fp32 finds it. The images are drawn here, so nothing
is downloaded, and the reference is kept in the cache by the digest of the weights.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from depth_server.engine import DepthModel, Forwarded, ModelInfo, PipelinedModel
from depth_server.errors import EngineMemoryError, StartupError, StartupReason
from depth_server.file_lock import replacing
from depth_server.preprocess import Size, preprocess

logger = logging.getLogger(__name__)

GOLDEN_VERSION: Final = 1
"""Counted up when an image changes, so that references of the old ones are not used."""

SMALL_SIZE: Final = Size(126, 168)
"""Not square and not a size of the training grid: the position embedding is resampled."""

ABSREL_FLOOR: Final = 0.01
"""Share of the largest depth below which a difference is not divided by the depth: inverse depth is 0 far away."""

MIN_SPREAD: Final = 1e-4
"""Least relative range of depth on an image with edges; less is a map of one colour."""

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Depth, (N, H, W), of normalised pixels, (N, 3, H, W)."""


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """Comparison on one image.

    Attributes:
        size: Of the image.
        absrel: See `mean_absrel`; None where there was nothing to compare with.
    """

    size: Size
    absrel: float | None


def golden_image(size: Size) -> NDArray[np.uint8]:
    """Draw a scene with a floor, a wall, a sphere, a box and texture: (H, W, 3), the same everywhere."""
    rows = np.linspace(0, 1, size.height, dtype=np.float64)[:, None]
    columns = np.linspace(0, 1, size.width, dtype=np.float64)[None, :]
    floor = rows > 0.55
    depth = np.where(floor, 1 / np.maximum(rows - 0.5, 0.02), 8.0)
    tiles = (np.floor(columns * depth * 2 - depth) + np.floor(depth)) % 2
    shade = np.where(floor, 0.35 + 0.4 * tiles, 0.55 + 0.25 * columns)
    image = np.stack([shade, shade * 0.9, shade * (0.7 + 0.3 * rows)], axis=-1)
    distance = np.hypot((columns - 0.32) * size.width / size.height, rows - 0.58) / 0.22
    ball = distance < 1
    light = np.sqrt(np.maximum(1 - distance**2, 0)) * (1.2 - 0.5 * columns - 0.4 * rows)
    image[ball] = (light[..., None] * np.array([0.9, 0.35, 0.25]))[ball]
    box = (columns > 0.6) & (columns < 0.85) & (rows > 0.35) & (rows < 0.75)
    image[box] = np.array([0.2, 0.35, 0.6]) * (0.6 + 0.4 * np.broadcast_to(rows, box.shape)[box])[:, None]
    # A generator's algorithm is fixed by its name, but not how floats are drawn from it; whole numbers are.
    noise = np.random.Generator(np.random.PCG64(GOLDEN_VERSION)).integers(-8, 9, image.shape)
    drawn: NDArray[np.uint8] = np.clip(np.rint(image * 255) + noise, 0, 255).astype(np.uint8)
    return drawn


def golden_batch(size: Size) -> NDArray[np.float32]:
    """Draw the image of a size as the network's input, (1, 3, H, W)."""
    return preprocess(golden_image(size), size)[np.newaxis]


def mean_absrel(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Compute the mean of |actual - expected| / expected, with a floor under the divisor.

    Args:
        actual: (H, W).
        expected: (H, W), not negative.

    Returns:
        Not finite if `actual` is not.
    """
    floor = max(ABSREL_FLOOR * float(expected.max()), float(np.finfo(np.float32).tiny))
    difference = np.abs(actual.astype(np.float64) - expected)
    return float(np.mean(difference / np.maximum(expected, floor)))


def check_depth_varies(depth: NDArray[np.float32], size: Size) -> None:
    """Refuse what no network gives on an image with edges.

    Raises:
        StartupError: `OutputMismatch`.
    """
    if not np.isfinite(depth).all():
        message = f"the golden image of {size.width}x{size.height} gives NaN or infinite depth"
        raise StartupError(StartupReason.OUTPUT_MISMATCH, message)
    spread = float(depth.max() - depth.min())
    if spread <= MIN_SPREAD * float(np.abs(depth).max()):
        message = (
            f"the golden image of {size.width}x{size.height} gives the same depth, {float(depth.max()):g}, everywhere"
        )
        raise StartupError(StartupReason.OUTPUT_MISMATCH, message)


class GoldenCheck:
    """Compares a model with its fp32 reference.

    Args:
        sizes: Of the images.
        reference: Makes the model in fp32 on the CPU, if it is needed; None compares nothing and checks only that the
            output is finite and varies, for a model that is its own reference.
        max_absrel: Largest error.
        key: Identifies the reference among all: weights, family, variant.
        folder: Where references are kept.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[Size],
        reference: Callable[[], Predict] | None,
        max_absrel: float,
        key: str,
        folder: Path,
    ) -> None:
        self._sizes = tuple(dict.fromkeys(sizes))
        self._reference = reference
        self._max_absrel = max_absrel
        self._key = key
        self._folder = folder

    def run(self, predict: Predict) -> list[GoldenResult]:
        """Compare.

        Raises:
            StartupError: `OutputMismatch`.
        """
        results = []
        make_reference = self._reference
        predict_reference: Predict | None = None
        for size in self._sizes:
            batch = golden_batch(size)
            depth = predict(batch)[0]
            check_depth_varies(depth, size)
            if make_reference is None:
                results.append(GoldenResult(size, None))
                continue
            expected = self._load(size)
            if expected is None:
                predict_reference = predict_reference or make_reference()
                expected = predict_reference(batch)[0]
                check_depth_varies(expected, size)
                self._store(size, expected)
            results.append(GoldenResult(size, mean_absrel(depth, expected)))
        self._judge(results)
        return results

    def _judge(self, results: Sequence[GoldenResult]) -> None:
        wrong = [result for result in results if result.absrel is not None and not result.absrel <= self._max_absrel]
        if wrong:
            found = ", ".join(f"{result.absrel:.4f} at {result.size.width}x{result.size.height}" for result in wrong)
            message = (
                f"the output differs from fp32 on the CPU by an AbsRel of {found}, allowed is {self._max_absrel:g}; "
                "choose another precision or backend, or, if the loss is wanted, raise "
                "DEPTH_SERVER_GOLDEN_MAX_ABSREL (DEPTH_SERVER_INT8_MAX_ABSREL for INT8)"
            )
            raise StartupError(StartupReason.OUTPUT_MISMATCH, message)

    def _path(self, size: Size) -> Path:
        identity = json.dumps([GOLDEN_VERSION, self._key, size.height, size.width])
        return self._folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.npy"

    def _load(self, size: Size) -> NDArray[np.float32] | None:
        path = self._path(size)
        try:
            depth = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read and is computed again: %s", path, error)
            return None
        if depth.dtype != np.float32 or depth.shape != (size.height, size.width):
            logger.warning("%s holds %s of %s and is computed again", path, depth.dtype, depth.shape)
            return None
        values: NDArray[np.float32] = depth
        return values

    def _store(self, size: Size, depth: NDArray[np.float32]) -> None:
        path = self._path(size)
        try:
            with replacing(path) as partial, partial.open("wb") as file:
                np.save(file, depth, allow_pickle=False)
        except OSError as error:
            logger.warning("%s cannot be kept, the next start computes it again: %s", path, error.strerror)


class VerifiedModel:
    """A model whose warm-up ends with the golden images; see `DepthModel`."""

    def __init__(self, model: DepthModel, check: GoldenCheck) -> None:
        self._model = model
        self._check = check

    @property
    def info(self) -> ModelInfo:
        """See `DepthModel.info`."""
        return self._model.info

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        """See `DepthModel.forward`."""
        return self._model.forward(pixel_values)

    def warm_up(self) -> None:
        """Warm up, then compare.

        Raises:
            StartupError: `OutputMismatch` besides the reasons of the model.
        """
        self._model.warm_up()
        try:
            results = self._check.run(lambda batch: self._model.forward(batch).depth)
        except EngineMemoryError as error:
            raise StartupError(StartupReason.OUT_OF_MEMORY, f"the golden images found {error}") from error
        logger.info("golden images: %s", ", ".join(_told(result) for result in results))


class VerifiedPipelinedModel(VerifiedModel):
    """The same for a `PipelinedModel`."""

    def __init__(self, model: DepthModel, pipeline: PipelinedModel, check: GoldenCheck) -> None:
        super().__init__(model, check)
        self._pipeline = pipeline

    def stage(self, images: Sequence[NDArray[np.float32]]) -> object:
        """See `PipelinedModel.stage`."""
        return self._pipeline.stage(images)

    def launch(self, staged: object) -> Callable[[], Forwarded]:
        """See `PipelinedModel.launch`."""
        return self._pipeline.launch(staged)


def verified(model: DepthModel, check: GoldenCheck) -> DepthModel:
    """Put the golden images at the end of a model's warm-up."""
    if isinstance(model, PipelinedModel):
        return VerifiedPipelinedModel(model, model, check)
    return VerifiedModel(model, check)


def _told(result: GoldenResult) -> str:
    size = f"{result.size.width}x{result.size.height}"
    return f"{size} finite and varied" if result.absrel is None else f"{size} AbsRel {result.absrel:.5f}"
