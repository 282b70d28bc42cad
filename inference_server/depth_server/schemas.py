"""Bodies of the answers, as documented in OpenAPI; the hot path builds its JSON without them."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["relative_inverse", "relative_depth", "metric"]


class Timings(BaseModel):
    """Seconds of each stage, without waiting for threads."""

    queue: float = Field(description="Wait for the engine.")
    preprocess: float = Field(description="Decode, resize and normalise.")
    forward: float = Field(description="Forward pass, of the whole batch that the image was in.")
    postprocess: float = Field(description="Resize to the size of the image and encode.")


class PredictResponse(BaseModel):
    """A depth map."""

    depth_map: str = Field(
        description=(
            "Base64 of a 16-bit grey PNG at the size of the image. "
            "Depth of a pixel v is min + v / 65535 * (max - min); v is 0 everywhere if depth is constant."
        )
    )
    processing_time: float = Field(description="Seconds from the complete upload to the encoded depth map.")
    width: int = Field(description="Pixels, after the EXIF orientation is applied.")
    height: int = Field(description="Pixels, after the EXIF orientation is applied.")
    min: float = Field(description="Depth of level 0.")
    max: float = Field(description="Depth of level 65535.")
    kind: Kind = Field(
        description=(
            "Meaning of depth. relative_inverse: near is large, scale and shift are unknown. "
            "relative_depth: near is small, the scale is unknown. metric: near is small."
        )
    )
    unit: Literal["m"] | None = Field(description="Unit of depth; null where there is none.")
    model: str = Field(description="Name of the model, for example depth_anything_v2_vits14.")
    timings: Timings
    faces_blurred: int | None = Field(
        default=None,
        description="Faces that were made unrecognisable before the model saw the image; absent where that is off.",
    )


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="URN of the kind of error.")
    title: str = Field(description="The kind of error in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened to this request and what to do.")
    state: str | None = Field(default=None, description="State of the server, where that is the reason.")
    error: str | None = Field(default=None, description="The same as detail, below /v2, whose clients read it.")


class BatchMember(BaseModel):
    """What became of one image: one of the two."""

    prediction: PredictResponse | None = None
    error: Problem | None = None


class BatchResponse(BaseModel):
    """What became of the images."""

    results: list[BatchMember] = Field(description="One for each image, in their order.")


class ModelCard(BaseModel):
    """A model that is served."""

    name: str = Field(description="As in answers, and as the model of the inference protocol.")
    family: str = Field(description="Declared family.")
    variant: str = Field(description="Size of the backbone.")
    kind: str = Field(description="Meaning of its depth, as in answers.")
    unit: str | None = Field(description="Unit of its depth; null where there is none.")
    license: str = Field(description="SPDX identifier of the licence of the official weights.")
    license_restricted: bool = Field(description="Whether that licence restricts the use of the weights.")
    sha256: str | None = Field(description="Digest of the file of weights; null if nobody has computed it.")
    repository: str | None = Field(description="Where the weights were downloaded from; null for a local file.")
    backend: str = Field(description="Library that runs it.")
    device: str = Field(description="Where it runs.")
    precision: str = Field(description="Type it computes in.")
    input_size: int = Field(description="Shorter side of the network's input in pixels, unless asked otherwise.")
    max_long_side: int = Field(description="Longest side of the network's input in pixels.")


class ModelsResponse(BaseModel):
    """The models that are served."""

    models: list[ModelCard]


class LiveResponse(BaseModel):
    """The process and its engine work."""

    state: str = Field(description="Starting, WarmingUp, Ready or Draining.")


class ReadyResponse(BaseModel):
    """What serves here."""

    state: str = Field(description="Ready.")
    version: str = Field(description="Version of the server.")
    model: str = Field(description="Name of the model.")
    kind: str = Field(description="Meaning of its depth.")
    device: str = Field(description="Where it runs.")
    device_requested: str = Field(description="What the settings asked for: auto, cpu or cuda.")
    precision: str = Field(description="Type it computes in.")
    input_size: int = Field(description="Shorter side of the network's input in pixels.")


class ServerMetadata(BaseModel):
    """The server, in the inference protocol's words."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """The server is alive."""

    live: Literal[True]


class ServerReady(BaseModel):
    """The server is ready."""

    ready: Literal[True]


class ModelReady(BaseModel):
    """The model is ready."""

    name: str
    ready: Literal[True]


class TensorMetadata(BaseModel):
    """An input or an output; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Inputs and outputs of the model; a request has one of the inputs."""

    name: str
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputTensorBody(TensorMetadata):
    """A tensor of a response."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, Any] | None = Field(default=None, description="binary_data_size, where the data follows.")
    data: list[Any] | None = Field(default=None, description="Flat, row-major; elements of BYTES in base64.")


class InferenceResponse(BaseModel):
    """The response of an inference request."""

    model_name: str
    id: str | None = None
    parameters: dict[str, Any] = Field(description="kind, and unit and faces_blurred where there are any.")
    outputs: list[OutputTensorBody]


_PARAMETERS: Final = {"type": "object"}

INFERENCE_REQUEST_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "size": {"type": "integer"},
                "exact": {"type": "boolean"},
                "upsample": {"type": "string"},
                "focal_length": {"type": "number"},
                "binary_data_output": {"type": "boolean"},
            },
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"type": "string", "enum": ["image", "pixels", "pixel_values"]},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
                    "datatype": {"type": "string", "enum": ["BYTES", "UINT8", "FP32"]},
                    "parameters": _PARAMETERS,
                    "data": {"type": "array", "items": {}},
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "enum": ["depth", "minimum", "maximum", "depth_png"]},
                    "parameters": _PARAMETERS,
                },
            },
        },
    },
}
"""The JSON of an inference request, for OpenAPI; `inference_request` reads it."""
