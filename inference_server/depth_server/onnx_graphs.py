"""A folder of ONNX graphs of one model: one graph per input size, all sharing one file of weights.

The position embedding is a constant of each graph, so a graph serves one size. Layout: `manifest.json`,
`<width>x<height>.onnx`, `weights.bin`. Nothing here needs torch or onnx, so whoever runs graphs does not load them.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from depth_server.errors import StartupError, StartupReason
from depth_server.file_lock import locked, replacing
from depth_server.model.variants import ModelSpec
from depth_server.preprocess import Size

MANIFEST_NAME: Final = "manifest.json"
"""Written last: a folder without it holds nothing."""

WEIGHTS_NAME: Final = "weights.bin"
"""Tensors of all graphs (ONNX external data)."""

EXPORT_FORMAT: Final = 1
"""Counted up when graphs of the same weights change."""

EXPORT_LOCK_SECONDS: Final = 1800.0
"""How long to wait for another process that exports into the same folder."""

INPUT_NAME: Final = "pixel_values"
"""(N, 3, H, W), fp32."""

DEPTH_NAME: Final = "depth"
"""(N, H, W), fp32."""

SKY_NAME: Final = "sky"
"""(N, H, W), fp32; of families with a sky head only."""


@dataclass(frozen=True, slots=True)
class GraphIdentity:
    """What graphs were exported from.

    Attributes:
        model: Name.
        weights_sha256: Digest of the declared weights.
        precision: `FP32`, `FP16`, `BF16` or `INT8`.
        format: See `EXPORT_FORMAT`.
    """

    model: str
    weights_sha256: str
    precision: str
    format: int = EXPORT_FORMAT

    @classmethod
    def of(cls, spec: ModelSpec, weights_sha256: str, precision: str) -> Self:
        """Describe the graphs of a model."""
        return cls(spec.name, weights_sha256, precision)

    @property
    def folder_name(self) -> str:
        """Name of their folder in the cache."""
        return f"{self.model}-{self.precision.lower()}-{self.weights_sha256[:16]}-v{self.format}"


def graph_name(size: Size) -> str:
    """Name the graph of an input size."""
    return f"{size.width}x{size.height}.onnx"


def output_names(spec: ModelSpec) -> tuple[str, ...]:
    """List a model's outputs in their order."""
    return (DEPTH_NAME, SKY_NAME) if spec.traits.layout.has_sky_head else (DEPTH_NAME,)


def read_manifest(folder: Path) -> GraphIdentity | None:
    """Read what a folder of graphs was exported from; None if it holds none.

    Raises:
        StartupError: `BackendUnavailable`: the manifest is damaged.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return GraphIdentity(
            str(content["model"]), str(content["weights_sha256"]), str(content["precision"]), int(content["format"])
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path} is no manifest of exported graphs: {type(error).__name__}: {error}; export them again"
        raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message) from error


def write_manifest(folder: Path, identity: GraphIdentity) -> None:
    """Declare a folder of graphs complete."""
    with replacing(folder / MANIFEST_NAME) as partial:
        partial.write_text(json.dumps(asdict(identity), indent=2) + "\n", encoding="utf-8")


class GraphStore:
    """Finds the graph of a size, and has it exported if there is none.

    Args:
        identity: What the graphs must have been exported from.
        cache: Where missing graphs are exported to.
        export: Writes the graph of a size into a folder; takes seconds to a minute.
        folder: Graphs exported beforehand, looked at first and never written to.

    Raises:
        StartupError: `BackendUnavailable`: `folder` holds no graphs, or those of another model, file or precision.
    """

    def __init__(
        self, identity: GraphIdentity, cache: Path, export: Callable[[Size, Path], None], folder: Path | None = None
    ) -> None:
        self.identity = identity
        self._cache = cache / identity.folder_name
        self._export = export
        self._folder = folder
        if folder is None:
            return
        found = read_manifest(folder)
        if found != identity:
            message = (
                f"DEPTH_SERVER_ONNX_FOLDER={folder} holds {_described(found)}, needed is {_described(identity)}; "
                "run `python -m depth_server export-onnx` with the same settings"
            )
            raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message)

    def path(self, size: Size) -> Path:
        """Return the graph of an input size.

        Raises:
            StartupError: `BackendUnavailable`: the cache cannot be written, or another process holds it for too long.
        """
        name = graph_name(size)
        if self._folder is not None and (self._folder / name).is_file():
            return self._folder / name
        path = self._cache / name
        if not path.is_file():
            try:
                self._export_once(size, path)
            except OSError as error:
                message = (
                    f"{path} cannot be written: {error.strerror or error}; set DEPTH_SERVER_CACHE_FOLDER to a volume, "
                    "or DEPTH_SERVER_ONNX_FOLDER to graphs written by export-onnx"
                )
                raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message) from error
        return path

    def _export_once(self, size: Size, path: Path) -> None:
        with locked(self._cache / WEIGHTS_NAME, EXPORT_LOCK_SECONDS):
            if path.is_file():
                return
            self._export(size, self._cache)
            write_manifest(self._cache, self.identity)


def _described(identity: GraphIdentity | None) -> str:
    if identity is None:
        return "no exported graphs"
    return (
        f"{identity.model} in {identity.precision} of the weights {identity.weights_sha256[:12]}... "
        f"(format {identity.format})"
    )
