"""What an inference request asks of the depth model, and its response; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from depth_server.answers import DepthMeaning
from depth_server.errors import InvalidParameterError, InvalidRequestError
from depth_server.model.variants import PATCH_SIZE
from depth_server.pipeline import DecodedImage, EncodedImage, ImageSource, NetworkInput, Prediction
from depth_server.query import IMAGE_PARAMETERS, ImageOptions, check_known, parse_image_options
from depth_server.representations import DepthMap, encode_depth_png
from depth_server.tensors import InputTensor, OutputTensor, encode_response, objects, parameters_of, read_tensors

PLATFORM: Final = "depth-serving"
"""The member `platform` of the model's metadata."""

INPUTS: Final[dict[str, tuple[str, list[int]]]] = {
    "image": ("BYTES", [-1]),
    "pixels": ("UINT8", [-1, -1, -1, 3]),
    "pixel_values": ("FP32", [-1, 3, -1, -1]),
}
"""Datatype and shape of each input; a request has one of them. The first dimension counts images."""

OUTPUTS: Final[dict[str, tuple[str, list[int]]]] = {
    "depth": ("FP32", [-1, -1, -1]),
    "minimum": ("FP32", [-1]),
    "maximum": ("FP32", [-1]),
    "depth_png": ("BYTES", [-1]),
}
"""Datatype and shape of each output. `depth` has the size of the image; `depth_png` is 16-bit grey."""

DEFAULT_OUTPUTS: Final = ("depth", "minimum", "maximum")
"""What is answered if nothing is asked for by name."""

BINARY_OUTPUT: Final = "binary_data_output"
"""Parameter of a request: whether outputs are binary unless they say otherwise."""


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output by its name, and whether it follows the JSON as binary data."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """An inference request that was understood.

    Attributes:
        id: Repeated in the response; None if there was none.
        images: At least one.
        outputs: In the order of the response.
        options: How depth is computed.
    """

    id: str | None
    images: tuple[ImageSource, ...]
    outputs: tuple[RequestedOutput, ...]
    options: ImageOptions


@dataclass(frozen=True, slots=True)
class RenderedTensors:
    """What the outputs need of one image."""

    depth: DepthMap | None
    png: bytes


def parse_inference(
    declared: dict[str, Any], binary: memoryview, *, max_images: int, max_long_side: int
) -> InferenceRequest:
    """Understand a request.

    Args:
        declared: Its JSON.
        binary: What follows the JSON.
        max_images: One more is refused.
        max_long_side: Of the network's input, in pixels.

    Raises:
        InvalidRequestError: Says which member is wrong and how.
        InvalidParameterError: The same of a parameter.
    """
    request_id = declared.get("id")
    if request_id is not None and not isinstance(request_id, str):
        message = "id is no text"
        raise InvalidRequestError(message)
    parameters = dict(parameters_of(declared, "the request"))
    for name in parameters:
        check_known(name, (*IMAGE_PARAMETERS, BINARY_OUTPUT))
    binary_output = parameters.pop(BINARY_OUTPUT, False)
    if not isinstance(binary_output, bool):
        message = f"the parameter {BINARY_OUTPUT!r} is not true or false"
        raise InvalidParameterError(message)
    options = parse_image_options(parameters, max_long_side)
    outputs = _outputs(declared.get("outputs"), default_binary=binary_output)
    tensors = read_tensors(declared.get("inputs"), binary)
    if len(tensors) != 1:
        message = f"the request has {len(tensors)} inputs; it needs one of {', '.join(INPUTS)}"
        raise InvalidRequestError(message)
    images = _images(tensors[0], max_images, max_long_side)
    return InferenceRequest(request_id, images, outputs, options)


def renderer(request: InferenceRequest, depth_map: DepthMap) -> RenderedTensors:
    """Make of one depth map what the outputs need."""
    names = {output.name for output in request.outputs}
    return RenderedTensors(
        depth_map if "depth" in names else None, encode_depth_png(depth_map) if "depth_png" in names else b""
    )


def inference_response(
    request: InferenceRequest, predictions: Sequence[Prediction[RenderedTensors]], meaning: DepthMeaning
) -> tuple[bytes, int | None]:
    """Build the response.

    Returns:
        The body, and the length of its JSON if binary data follows.

    Raises:
        InvalidRequestError: `depth` was asked for of images with different sizes.
    """
    parameters: dict[str, Any] = {"kind": meaning.kind}
    if meaning.unit is not None:
        parameters["unit"] = meaning.unit
    faces = [prediction.faces_blurred for prediction in predictions if prediction.faces_blurred is not None]
    if faces:
        parameters["faces_blurred"] = sum(faces)
    head: dict[str, Any] = {"model_name": meaning.model, "parameters": parameters}
    if request.id is not None:
        head["id"] = request.id
    return encode_response(head, [_output(output, predictions) for output in request.outputs])


def model_metadata(name: str) -> dict[str, Any]:
    """Describe the model."""

    def tell(tensors: dict[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
        return [{"name": key, "datatype": datatype, "shape": shape} for key, (datatype, shape) in tensors.items()]

    return {"name": name, "platform": PLATFORM, "inputs": tell(INPUTS), "outputs": tell(OUTPUTS)}


def _outputs(declared: object, *, default_binary: bool) -> tuple[RequestedOutput, ...]:
    if declared is None or declared == []:
        return tuple(RequestedOutput(name, default_binary) for name in DEFAULT_OUTPUTS)
    outputs: list[RequestedOutput] = []
    for item in objects("outputs", declared):
        name = item.get("name")
        if not isinstance(name, str) or name not in OUTPUTS:
            message = f"the output {str(name)[:40]!r} is unknown; known are {', '.join(OUTPUTS)}"
            raise InvalidRequestError(message)
        if any(output.name == name for output in outputs):
            message = f"the output {name!r} is asked for twice"
            raise InvalidRequestError(message)
        parameters = parameters_of(item, f"output {name!r}")
        for parameter in parameters:
            check_known(parameter, ("binary_data",))
        binary = parameters.get("binary_data", default_binary)
        if not isinstance(binary, bool):
            message = f"binary_data of the output {name!r} is not true or false"
            raise InvalidParameterError(message)
        outputs.append(RequestedOutput(name, binary))
    return tuple(outputs)


def _images(tensor: InputTensor, max_images: int, max_long_side: int) -> tuple[ImageSource, ...]:
    if tensor.name not in INPUTS:
        message = f"the input {tensor.name[:40]!r} is unknown; known are {', '.join(INPUTS)}"
        raise InvalidRequestError(message)
    datatype, expected = INPUTS[tensor.name]
    shape = tensor.shape
    if len(shape) == len(expected) - 1 and datatype != "BYTES":
        shape = (1, *shape)  # one picture without its batch
    if tensor.name == "image" and len(shape) == 2 and shape[1] == 1:
        shape = shape[:1]  # one picture in each item of a batch
    fits = len(shape) == len(expected) and all(
        wanted in (-1, side) for wanted, side in zip(expected, shape, strict=True)
    )
    if tensor.datatype != datatype or not fits:
        message = (
            f"the input {tensor.name!r} is {tensor.datatype[:20]} {list(tensor.shape)}, expected {datatype} {expected}"
        )
        raise InvalidRequestError(message)
    if shape[0] > max_images:
        message = f"the request has {shape[0]} images, the limit is {max_images}"
        raise InvalidRequestError(message)
    if tensor.numbers is None:
        return tuple(EncodedImage(element) for element in tensor.elements)
    batch = tensor.numbers.reshape(shape)
    if datatype == "UINT8":
        return tuple(DecodedImage(pixels) for pixels in batch)
    _check_network_input(shape[2:], max_long_side)
    if not np.isfinite(batch).all():
        message = "pixel_values has NaN or infinite elements"
        raise InvalidRequestError(message)
    return tuple(NetworkInput(np.ascontiguousarray(values, dtype=np.float32)) for values in batch)


def _check_network_input(sides: Sequence[int], max_long_side: int) -> None:
    if any(side % PATCH_SIZE or side > max_long_side for side in sides):
        message = f"height and width of pixel_values are {list(sides)}, expected multiples of 14 up to {max_long_side}"
        raise InvalidRequestError(message)


def _output(output: RequestedOutput, predictions: Sequence[Prediction[RenderedTensors]]) -> OutputTensor:
    count = len(predictions)
    if output.name == "depth_png":
        return OutputTensor(output.name, (count,), tuple(item.rendered.png for item in predictions), output.binary)
    if output.name == "depth":
        maps = [item.rendered.depth.depth for item in predictions if item.rendered.depth is not None]
        if len({depth.shape for depth in maps}) > 1:
            message = "the images have different sizes, so their depth is no tensor; ask for depth_png"
            raise InvalidRequestError(message)
        stacked = np.stack(maps)
        return OutputTensor(output.name, stacked.shape, stacked, output.binary)
    numbers = [item.minimum if output.name == "minimum" else item.maximum for item in predictions]
    return OutputTensor(output.name, (count,), np.array(numbers, dtype=np.float32), output.binary)
