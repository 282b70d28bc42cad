"""Settings of what computes depth: where the weights come from, which library runs them and how they are verified.

A base class of `settings.Settings`, so that they are read, checked and reported together with the rest.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

DEFAULT_HUB_ENDPOINT: Final = "https://huggingface.co"
"""Where repositories of weights are looked for."""

CACHE_FOLDER_NAME: Final = "depth-server"
"""Our folder inside the user's cache."""

Duration = Annotated[float, Field(gt=0, le=86400)]


class Backend(StrEnum):
    """Library that runs the network."""

    PYTORCH = "PyTorch"
    ONNX_RUNTIME = "ONNXRuntime"
    TENSORRT = "TensorRT"


def default_cache_folder() -> Path:
    """Return our folder in the user's cache (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / CACHE_FOLDER_NAME


class ModelSettings(BaseSettings):
    """Weights, licence, backend and verification."""

    weights: Path | None = None
    """Official checkpoint, `.pth` or `.safetensors`; a `.pth` is converted once into the cache."""
    weights_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Expected digest of the weights; empty checks nothing but what the Hub says of its own file."""
    weights_repository: str = Field(default="", pattern=r"^([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)?$", max_length=200)
    """Repository on the Hugging Face Hub, `owner/name`, in the place of `weights`."""
    weights_revision: str = Field(default="main", pattern=r"^[A-Za-z0-9][\w./-]*$", max_length=200)
    """Branch, tag or, best, commit of the repository."""
    weights_file: str = Field(default="", pattern=r"^([A-Za-z0-9][\w./-]*)?$", max_length=400)
    """File in the repository."""
    weights_endpoint: str = Field(default=DEFAULT_HUB_ENDPOINT, pattern=r"^https?://[^\s/@]+(/[^\s@?#]*)?$")
    """Address of the Hub or of a mirror that speaks its HTTP."""
    weights_token_file: Path | None = None
    """File with the token for repositories that need one."""
    weights_offline: bool = False
    """Never open a connection: the file of the repository is in the cache already."""
    download_attempts: int = Field(default=5, ge=1, le=100)
    """Requests in a row that may bring nothing before a download is given up."""
    download_timeout_seconds: Duration = 3600
    """Time for a whole download."""
    download_stall_seconds: Duration = 30
    """Time without a byte after which a connection counts as broken."""
    max_weights_bytes: int = Field(default=8 * 1024**3, ge=1)
    """Largest file that is downloaded."""
    cache_folder: Path = Field(default_factory=default_cache_folder)
    """Downloads, converted weights, exported graphs and built engines; mount a volume to keep them."""
    license_accepted: str = Field(default="", max_length=64)
    """SPDX identifier of a licence with restrictions that whoever runs the server has accepted."""
    backend: Backend = Backend.PYTORCH
    """Library that runs the network."""
    onnx_folder: Path | None = None
    """Graphs written by `export-onnx`; without it they are exported at the start into the cache."""
    onnx_sessions: int = Field(default=4, ge=1, le=64)
    """Input sizes whose ONNX Runtime sessions or TensorRT engines are held at a time."""
    tensorrt_workspace_bytes: int = Field(default=4 * 1024**3, ge=1)
    """Scratch memory that TensorRT may use while it builds."""
    tensorrt_max_batch: int = Field(default=8, ge=1, le=256)
    """Largest batch that an engine is built for."""
    golden_check: bool = True
    """Compare the output on fixed images with fp32 on the CPU before the server becomes ready."""
    golden_max_absrel: float = Field(default=0.01, gt=0, le=1)
    """Largest mean absolute relative error of that comparison."""
    int8_max_absrel: float = Field(default=0.05, gt=0, le=1)
    """The same for INT8, which is lossy by design."""

    @field_validator("weights_sha256", mode="before")
    @classmethod
    def _lower_digest(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("weights", "weights_token_file", "onnx_folder", mode="before")
    @classmethod
    def _unset_empty(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _check_weights_source(self) -> Self:
        if self.weights is None and not self.weights_repository:
            message = "DEPTH_SERVER_WEIGHTS is not set, nor is DEPTH_SERVER_WEIGHTS_REPOSITORY"
            raise ValueError(message)
        if self.weights is not None and self.weights_repository:
            message = "DEPTH_SERVER_WEIGHTS and DEPTH_SERVER_WEIGHTS_REPOSITORY are both set; remove one"
            raise ValueError(message)
        if self.weights_repository and not self.weights_file:
            message = (
                f"DEPTH_SERVER_WEIGHTS_FILE is not set: which file of {self.weights_repository} holds the weights?"
            )
            raise ValueError(message)
        if ".." in self.weights_file.split("/") or ".." in self.weights_revision.split("/"):
            message = "DEPTH_SERVER_WEIGHTS_FILE and DEPTH_SERVER_WEIGHTS_REVISION must not contain '..'"
            raise ValueError(message)
        return self
