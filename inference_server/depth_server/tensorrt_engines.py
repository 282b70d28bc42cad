"""Builds TensorRT engines from ONNX graphs, once per GPU, version, graph and shape, and keeps them in the cache.

What touches the library stands behind `TensorRtRuntime`. An engine holds for one GPU model and one version of TensorRT
only, so both are part of its key: a node with another GPU builds its own.
"""

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from depth_server.errors import StartupError, StartupReason
from depth_server.file_lock import locked, replacing
from depth_server.preprocess import Size

logger = logging.getLogger(__name__)

BUILD_LOCK_SECONDS: Final = 3600.0
"""How long to wait for another process that builds the same engine."""

ENGINE_SUFFIX: Final = ".engine"
"""Of serialised engines."""


@dataclass(frozen=True, slots=True)
class GpuIdentity:
    """What an engine is built for.

    Attributes:
        name: As the driver tells it, `NVIDIA H200`.
        compute_capability: `9.0`.
    """

    name: str
    compute_capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How an engine is built; precision is part of the graph, since TensorRT 11 knows strongly typed networks only.

    Attributes:
        size: Height and width of the input.
        max_batch: Largest batch; the smallest is 1, and the tactics are tuned for the largest.
        workspace_bytes: Scratch memory of the build.
        input_name: Name of the input in the graph.
    """

    size: Size
    max_batch: int
    workspace_bytes: int
    input_name: str

    def shape(self, batch: int) -> tuple[int, int, int, int]:
        """Return the input's shape for a batch."""
        return (batch, 3, self.size.height, self.size.width)


class TensorRtEngine(Protocol):
    """A deserialised engine with its execution context."""

    def run(self, pixel_values: NDArray[np.float32]) -> tuple[tuple[NDArray[np.float32], ...], float]:
        """Map (N, 3, H, W) to the graph's outputs, each (N, H, W), and the seconds on the GPU.

        Raises:
            EngineMemoryError: The device had no memory; the engine is usable afterwards.
        """


class TensorRtRuntime(Protocol):
    """The library and the GPU."""

    @property
    def version(self) -> str:
        """Version of TensorRT."""

    @property
    def gpu(self) -> GpuIdentity:
        """The GPU that is used."""

    def build(self, graph: Path, options: BuildOptions) -> bytes:
        """Build and serialise an engine; takes minutes.

        Raises:
            StartupError: `BackendUnavailable`: the graph cannot be parsed or built.
        """

    def deserialise(self, engine: bytes) -> TensorRtEngine | None:
        """Load an engine; None if it is of another version or damaged."""


def engine_key(
    graph_sha256: str, gpu: GpuIdentity, version: str, precision: str, options: BuildOptions
) -> dict[str, object]:
    """Collect everything that an engine depends on."""
    return {
        "graph_sha256": graph_sha256,
        "gpu": asdict(gpu),
        "tensorrt": version,
        "precision": precision,
        "height": options.size.height,
        "width": options.size.width,
        "max_batch": options.max_batch,
        "workspace_bytes": options.workspace_bytes,
    }


class EngineCache:
    """Finds an engine, and has it built if there is none.

    Args:
        folder: Where engines are kept.
        runtime: The library.
    """

    def __init__(self, folder: Path, runtime: TensorRtRuntime) -> None:
        self._folder = folder
        self._runtime = runtime

    def engine(self, graph: Path, graph_id: str, precision: str, options: BuildOptions) -> TensorRtEngine:
        """Load the engine of a graph.

        Args:
            graph: ONNX file.
            graph_id: Identity of the weights behind it, since the file itself only refers to them.
            precision: Of the graph.
            options: Shape and bounds.

        Raises:
            StartupError: `BackendUnavailable`.
        """
        digest = hashlib.sha256(graph_id.encode() + graph.read_bytes()).hexdigest()
        key = engine_key(digest, self._runtime.gpu, self._runtime.version, precision, options)
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = self._folder / (name + ENGINE_SUFFIX)
        try:
            loaded = self._load(path)
            if loaded is None:
                with locked(path, BUILD_LOCK_SECONDS):
                    loaded = self._load(path) or self._build(path, graph, options, key)
        except OSError as error:
            message = (
                f"the engine {path} cannot be kept: {error.strerror or error}; set DEPTH_SERVER_CACHE_FOLDER to a "
                "volume that can be written"
            )
            raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message) from error
        return loaded

    def _load(self, path: Path) -> TensorRtEngine | None:
        if not path.is_file():
            return None
        loaded = self._runtime.deserialise(path.read_bytes())
        if loaded is None:
            logger.warning("%s cannot be loaded and is built again", path)
            path.unlink()
        return loaded

    def _build(self, path: Path, graph: Path, options: BuildOptions, key: dict[str, object]) -> TensorRtEngine:
        logger.info("building the engine of %s, this takes minutes: %s", graph.name, json.dumps(key, sort_keys=True))
        serialised = self._runtime.build(graph, options)
        loaded = self._runtime.deserialise(serialised)
        if loaded is None:
            message = f"TensorRT {self._runtime.version} cannot load the engine that it built of {graph}"
            raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message)
        with replacing(path) as partial:
            partial.write_bytes(serialised)
        # For people who look into the folder.
        path.with_suffix(".json").write_text(json.dumps(key, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return loaded
