"""Bodies of the answers, as documented in OpenAPI; the hot path builds its JSON without them."""

from typing import Literal

from pydantic import BaseModel, Field


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
    kind: Literal["relative_inverse"] = Field(
        description="Meaning of depth: relative_inverse is unitless, near is large, scale and shift are unknown."
    )
    model: str = Field(description="Name of the model, for example depth_anything_v2_vits14.")
    faces_blurred: int | None = Field(
        default=None,
        description="Faces that were made unrecognisable before the model saw the image; absent where that is off.",
    )


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


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="URN of the kind of error.")
    title: str = Field(description="The kind of error in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened to this request and what to do.")
    state: str | None = Field(default=None, description="State of the server, where that is the reason.")
