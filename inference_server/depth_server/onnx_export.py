"""Writes a model as ONNX, one graph per input size; needs torch, onnx and onnxscript.

LayerNormalization stays one operator (opset 17): decomposed, its squares overflow in half precision. The position
embedding is resampled here by upstream's formula and stored, because exporters and runtimes disagree about bicubic
resizing. The batch is free.
"""

import contextlib
import hashlib
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from depth_server.errors import StartupError, StartupReason
from depth_server.file_lock import replacing
from depth_server.model.backbone import resample_pos_embed
from depth_server.model.depth_anything import DepthAnything
from depth_server.model.variants import PATCH_SIZE
from depth_server.onnx_graphs import (
    INPUT_NAME,
    WEIGHTS_NAME,
    GraphIdentity,
    graph_name,
    output_names,
    write_manifest,
)
from depth_server.preprocess import Size
from depth_server.settings import Precision
from depth_server.torch_model import DTYPES

logger = logging.getLogger(__name__)

OPSET: Final = 18
"""Version of the operators: LayerNormalization since 17, Resize as torch means it since 18."""

MIN_EXTERNAL_BYTES: Final = 1024
"""Tensors from this size on are stored in the shared file."""

ALIGNMENT: Final = 4096
"""Of tensors in the shared file, so that they can be mapped into memory."""

QUANTISED_OPERATORS: Final = ("MatMul",)
"""Linear layers, 63 % of the work. Convolutions in INT8 are slower on CPUs; attention's products have no weights."""


TALKATIVE_LOGGERS: Final = ("onnx_ir", "onnxscript", "torch.onnx")
"""Loggers that tell of every node of a graph."""


class ExportableDepth(nn.Module):
    """A model for one input size, fp32 in and out."""

    def __init__(self, model: DepthAnything, size: Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        pos_embed = model.backbone.vit.pos_embed.data
        self.register_buffer(
            "positions", resample_pos_embed(pos_embed, size.height // PATCH_SIZE, size.width // PATCH_SIZE).to(dtype)
        )

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Map (N, 3, H, W) to depth and, if the family has it, sky, each (N, H, W)."""
        return self.model.forward_maps(pixel_values.to(self.dtype), self.get_buffer("positions"))


class TensorArchive:
    """Appends tensors to the file that all graphs of a folder share; equal ones are stored once.

    Args:
        path: The file; what it holds already is read, so that graphs can be added later.
        known: Offset and length by digest, of what it holds.
    """

    def __init__(self, path: Path, known: dict[str, tuple[int, int]]) -> None:
        self._path = path
        self._known = known

    def add(self, data: bytes) -> tuple[int, int]:
        """Store bytes and return their offset and length."""
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._known:
            with self._path.open("ab") as file:
                file.write(b"\0" * (-file.tell() % ALIGNMENT))
                self._known[digest] = (file.tell(), len(data))
                file.write(data)
        return self._known[digest]


class GraphExporter:
    """Exports graphs of one model.

    Args:
        load: Gives the model in fp32 on the CPU; called for each export, so that nothing is held between them.
        precision: Of the linear layers and convolutions but the last.
    """

    def __init__(self, load: Callable[[], DepthAnything], precision: Precision) -> None:
        self._load = load
        self._precision = precision

    def __call__(self, size: Size, folder: Path) -> None:
        """Write the graph of an input size into a folder; others that are there stay valid.

        Raises:
            StartupError: `BackendUnavailable`: a package is missing.
        """
        self.export([size], folder)

    def export(self, sizes: Sequence[Size], folder: Path) -> None:
        """Write the graphs of several input sizes; see `__call__`."""
        require_packages("onnx", "onnxscript")
        folder.mkdir(parents=True, exist_ok=True)
        model = self._load()
        names = output_names(model.spec)
        dtype = DTYPES.get(self._precision, torch.float32)
        model.cast(dtype)
        archive = TensorArchive(folder / WEIGHTS_NAME, index_archive(folder))
        for size in sizes:
            logger.info("exporting %s in %s for %dx%d", model.spec.name, self._precision, size.width, size.height)
            proto = trace(ExportableDepth(model, size, dtype).eval(), size, names)
            if self._precision is Precision.INT8:
                proto = quantised(proto)
            store(proto, folder / graph_name(size), archive)


def export_folder(
    load: Callable[[], DepthAnything], identity: GraphIdentity, sizes: Sequence[Size], folder: Path
) -> None:
    """Export graphs for `DEPTH_SERVER_ONNX_FOLDER`.

    Raises:
        StartupError: `BackendUnavailable`: a package is missing.
    """
    GraphExporter(load, Precision(identity.precision)).export(sizes, folder)
    write_manifest(folder, identity)


def trace(module: ExportableDepth, size: Size, names: Sequence[str]) -> Any:  # noqa: ANN401 onnx.ModelProto; onnx is imported on demand
    """Turn a module into an ONNX model with its weights inside."""
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, 3, size.height, size.width)
    with torch.inference_mode(mode=False), torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=list(names),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    if program is None:
        message = "torch.onnx.export gave no program"
        raise RuntimeError(message)
    return program.model_proto


def quantised(proto: Any) -> Any:  # noqa: ANN401 onnx.ModelProto
    """Quantise linear layers to INT8, activations by their range at run time."""
    import onnx  # noqa: PLC0415 only exports need it
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415 likewise

    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder) / "int8.onnx"
        quantize_dynamic(
            proto,
            target,
            op_types_to_quantize=list(QUANTISED_OPERATORS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(target)


def store(proto: Any, path: Path, archive: TensorArchive) -> None:  # noqa: ANN401 onnx.ModelProto
    """Write a graph, its tensors into the archive."""
    import onnx  # noqa: PLC0415 only exports need it

    for tensor in proto.graph.initializer:
        if not tensor.HasField("raw_data") or len(tensor.raw_data) < MIN_EXTERNAL_BYTES:
            continue
        offset, length = archive.add(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        for key, value in (("location", WEIGHTS_NAME), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
    with replacing(path) as partial:
        partial.write_bytes(proto.SerializeToString())


def index_archive(folder: Path) -> dict[str, tuple[int, int]]:
    """Find out what the shared file of a folder holds, from the graphs that refer to it."""
    import onnx  # noqa: PLC0415 only exports need it

    archive = folder / WEIGHTS_NAME
    if not archive.is_file():
        return {}
    ranges = {
        (int(entries.get("offset", "0")), int(entries["length"]))
        for graph in folder.glob("*.onnx")
        for tensor in onnx.load(graph, load_external_data=False).graph.initializer
        if (entries := {entry.key: entry.value for entry in tensor.external_data})
    }
    content = np.memmap(archive, dtype=np.uint8, mode="r")
    return {
        hashlib.sha256(content[offset : offset + length].tobytes()).hexdigest(): (offset, length)
        for offset, length in sorted(ranges)
    }


def require_packages(*names: str) -> None:
    """Check that packages can be imported.

    Raises:
        StartupError: `BackendUnavailable`.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        message = f"exporting to ONNX needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' remarks on single nodes, hundreds of lines, out of the log; errors are raised anyway."""
    root = logging.getLogger()
    loggers = [logging.getLogger(name) for name in TALKATIVE_LOGGERS]
    levels = [talkative.level for talkative in loggers]
    for talkative in loggers:
        talkative.setLevel(logging.ERROR)
    # ONNX Runtime's quantisation logs as the root logger, which nothing else here does.
    root.addFilter(_is_error)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_is_error)
        for talkative, level in zip(loggers, levels, strict=True):
            talkative.setLevel(level)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
