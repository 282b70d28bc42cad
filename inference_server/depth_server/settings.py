"""Settings, read once from the environment and passed on; names and defaults are `docs/reference/contract.md`'s.

Every bound of the server is a setting here.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from depth_server.access_settings import AccessSettings
from depth_server.api_settings import ApiSettings
from depth_server.engine_settings import EngineSettings
from depth_server.errors import StartupError, StartupReason
from depth_server.model.variants import PATCH_SIZE, ModelFamily, ModelVariant, model_spec
from depth_server.model_settings import Backend, ModelSettings

ENV_PREFIX: Final = "DEPTH_SERVER_"
"""Prefix of every environment variable."""

TERMINATION_MESSAGE_VARIABLE: Final = ENV_PREFIX + "TERMINATION_MESSAGE_PATH"
"""Read by itself where the settings as a whole are invalid."""

DEFAULT_TERMINATION_MESSAGE_PATH: Final = Path("/dev/termination-log")
"""Where the kubelet mounts the container's termination message by default."""

MIN_INPUT_SIZE: Final = 126
"""Smallest input size, 9 patches: below it the map has too few tokens to mean anything."""

MAX_INPUT_SIZE: Final = 1022
"""Largest input size and long side, 73 patches: 5329 tokens for a square."""


class Device(StrEnum):
    """Where the model runs; `auto` takes CUDA if there is a device."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Precision(StrEnum):
    """Type of the backbone and of most of the head; the last upsampling and convolutions are always fp32."""

    FP32 = "FP32"
    FP16 = "FP16"
    BF16 = "BF16"
    INT8 = "INT8"
    """Weights and, by their range in each image, activations of linear layers; ONNX Runtime on the CPU only."""


Seconds = Annotated[float, Field(gt=0, le=3600)]
Count = Annotated[int, Field(ge=1)]


class Settings(ModelSettings, AccessSettings, EngineSettings, ApiSettings):
    """Everything that can be configured, in pixels, bytes and seconds.

    `load_settings` builds it; constructing it directly with keywords is for tests.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", protected_namespaces=()
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 lets the system choose, and the log tells which."""
    model_family: ModelFamily = ModelFamily.DEPTH_ANYTHING
    """Declared, never guessed: files of both families look the same."""
    model_variant: ModelVariant = ModelVariant.VITL14
    """Size of the backbone."""
    device: Device = Device.AUTO
    """Where the model runs."""
    precision: Precision = Precision.FP32
    """Type the model computes in."""
    input_size: int = Field(default=518, ge=MIN_INPUT_SIZE, le=MAX_INPUT_SIZE, multiple_of=PATCH_SIZE)
    """Shorter side of the network's input in pixels."""
    max_long_side: int = Field(default=MAX_INPUT_SIZE, ge=MIN_INPUT_SIZE, le=4 * MAX_INPUT_SIZE, multiple_of=PATCH_SIZE)
    """Longest side of the network's input: without it a panorama costs a hundred times a square."""
    cpu_threads: int = Field(default=0, ge=0, le=1024)
    """Threads of one forward pass on the CPU; 0 is torch's choice."""
    max_queued_requests: Count = 64
    """Requests that may wait while one is served; one more is refused with 429."""
    max_upload_bytes: Count = 20 * 1024**2
    """Bytes of the uploaded file."""
    max_inflight_upload_bytes: Count = 256 * 1024**2
    """Bytes of all uploads that wait to be decoded; more is refused with 429."""
    max_pixels: Count = 40_000_000
    """Pixels of the source image, checked before it is decoded."""
    max_side_pixels: Count = 16_384
    """Pixels of one side of the source image, checked before it is decoded."""
    codec_threads: int = Field(default=2, ge=1, le=256)
    """Threads that decode, resize and encode. A source image takes about 20 bytes per pixel in each."""
    upload_timeout_seconds: Seconds = 30
    """Time for the body to arrive."""
    request_timeout_seconds: Seconds = 60
    """Time from the complete upload to the answer."""
    max_forward_seconds: Seconds = 300
    """A forward pass that takes longer makes the server unhealthy."""
    max_consecutive_failures: Count = 3
    """Forward passes that raise one after another before the engine counts as crashed."""
    max_connections: Count = 1024
    """Open connections; one more closes the one that has been idle longest, or is answered with 503 by `/predict`."""
    drain_delay_seconds: float = Field(default=2, ge=0, le=3600)
    """Time between turning unready and closing the port, for endpoints to be updated everywhere."""
    drain_seconds: Seconds = 50
    """Time to finish accepted requests after the port is closed; pending ones are answered with 503 then."""
    termination_message_path: Path = DEFAULT_TERMINATION_MESSAGE_PATH
    """File that receives the reason why the server cannot start."""
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    """Least severity that is logged."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        try:
            model_spec(self.model_family, self.model_variant)
        except StartupError as error:
            raise ValueError(str(error)) from error
        if self.max_long_side < self.input_size:
            message = (
                f"{ENV_PREFIX}MAX_LONG_SIDE={self.max_long_side} is below {ENV_PREFIX}INPUT_SIZE={self.input_size}"
            )
            raise ValueError(message)
        if self.max_inflight_upload_bytes < self.max_upload_bytes:
            message = (
                f"{ENV_PREFIX}MAX_INFLIGHT_UPLOAD_BYTES={self.max_inflight_upload_bytes} is below "
                f"{ENV_PREFIX}MAX_UPLOAD_BYTES={self.max_upload_bytes}: the largest upload could never be accepted"
            )
            raise ValueError(message)
        if self.slo_seconds >= self.job_ageing_seconds:
            message = (
                f"{ENV_PREFIX}JOB_AGEING_SECONDS={self.job_ageing_seconds:g} must be above "
                f"{ENV_PREFIX}SLO_SECONDS={self.slo_seconds:g}: jobs would go before interactive requests"
            )
            raise ValueError(message)
        check_backend(self.backend, self.device, self.precision)
        if self.device is Device.CPU:
            check_precision(self.device, self.precision)
        return self


def check_backend(backend: Backend, device: Device, precision: Precision) -> None:
    """Refuse what a backend cannot do.

    Raises:
        ValueError: Says which setting to change.
    """
    if precision is Precision.INT8 and backend is not Backend.ONNX_RUNTIME:
        message = f"{ENV_PREFIX}PRECISION=INT8 needs {ENV_PREFIX}BACKEND=ONNXRuntime, it is {backend}"
        raise ValueError(message)
    if backend is Backend.ONNX_RUNTIME and (device is Device.CUDA or precision not in (Precision.FP32, Precision.INT8)):
        message = (
            f"{ENV_PREFIX}BACKEND=ONNXRuntime runs on the CPU in FP32 or INT8; for a GPU or {precision} "
            f"use {Backend.PYTORCH} or {Backend.TENSORRT}"
        )
        raise ValueError(message)
    if backend is Backend.TENSORRT and device is Device.CPU:
        message = f"{ENV_PREFIX}BACKEND=TensorRT needs a GPU, but {ENV_PREFIX}DEVICE=cpu"
        raise ValueError(message)


def check_precision(device: Device, precision: Precision) -> None:
    """Refuse what a device cannot do well.

    Raises:
        ValueError: FP16 on a CPU, which emulates it slowly and overflows.
    """
    if device is Device.CPU and precision is Precision.FP16:
        message = (
            f"{ENV_PREFIX}PRECISION=FP16 needs a CUDA device, and the model would run on the CPU; "
            f"use FP32 or BF16, or run where there is a CUDA device"
        )
        raise ValueError(message)


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        StartupError: `InvalidSettings`, with every wrong variable and what it should be.
    """
    try:
        return Settings()
    except ValidationError as error:
        details = "; ".join(
            _describe(str(item["loc"][0]) if item["loc"] else None, item["msg"], item.get("input"), item["type"])
            for item in error.errors()
        )
        raise StartupError(StartupReason.INVALID_SETTINGS, details) from error


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """List variables with our prefix that no setting reads, so that a misspelt one is noticed.

    Kubernetes injects `<SERVICE>_SERVICE_HOST`, `<SERVICE>_PORT_...` for every Service, and one may be called
    `depth-server`; those are left out.
    """
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    injected = (ENV_PREFIX + "SERVICE_", ENV_PREFIX + "PORT_")
    return sorted(
        name
        for name in environment
        if name.startswith(ENV_PREFIX) and name not in known and not name.startswith(injected)
    )


def _describe(field: str | None, message: str, value: object, error_type: str) -> str:
    message = message.removeprefix("Value error, ")
    if field is None:
        return message
    variable = ENV_PREFIX + field.upper()
    if error_type == "missing":
        return f"{variable} is not set and has no default"
    return f"{variable}={value}: {message[:1].lower()}{message[1:]}"
