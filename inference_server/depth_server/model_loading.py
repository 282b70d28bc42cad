"""From the settings to a verified model: licence, weights, backend, golden images.

Libraries that take seconds to import are imported where they are needed: probes are answered meanwhile, and a server
that runs ONNX graphs made beforehand does not load torch at all if its golden references are cached.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from depth_server.engine import DepthModel
from depth_server.golden import SMALL_SIZE, GoldenCheck, Predict, verified
from depth_server.licences import check_license
from depth_server.model.variants import FAMILIES, ModelSpec, ResizeBound, model_spec
from depth_server.model_settings import Backend
from depth_server.onnx_graphs import GraphIdentity, GraphStore, graph_name
from depth_server.preprocess import Size
from depth_server.settings import Precision, Settings
from depth_server.shape_buckets import COMMON_ASPECTS, nearest_bucket
from depth_server.weights_source import Report, WeightsFile, obtain_weights

if TYPE_CHECKING:
    from depth_server.model.depth_anything import DepthAnything

logger = logging.getLogger(__name__)

ASPECT_SCALE: Final = 1000
"""Sides of the images that stand for an aspect ratio, so that rounding to pixels does not matter."""


def load_model(settings: Settings, report: Report = lambda _: None) -> DepthModel:
    """Load the declared model; takes seconds to minutes.

    Args:
        settings: What to load.
        report: Told what is being done, for people who wait.

    Returns:
        Its warm-up ends with the golden images, unless they are switched off.

    Raises:
        StartupError: Any reason of the contract.
    """
    spec = model_spec(settings.model_family, settings.model_variant)
    check_license(spec, settings.license_accepted)
    weights = obtain_weights(settings, report)
    report("the weights are being loaded")
    model = _LOADERS[settings.backend](settings, spec, weights)
    return verified(model, golden_check(settings, spec, weights, model)) if settings.golden_check else model


def golden_check(settings: Settings, spec: ModelSpec, weights: WeightsFile, model: DepthModel) -> GoldenCheck:
    """Decide what a loaded model is compared with, and at which sizes."""
    is_its_own_reference = (
        settings.backend is Backend.PYTORCH
        and model.info.device == "cpu"
        and model.info.precision == Precision.FP32.value
    )
    # Backends with one graph per size have none for the small image, and making one takes longer than it is worth.
    sizes = (
        [SMALL_SIZE, common_sizes(settings)[0]] if settings.backend is Backend.PYTORCH else common_sizes(settings)[:2]
    )
    return GoldenCheck(
        sizes=[SMALL_SIZE] if is_its_own_reference else sizes,
        reference=None if is_its_own_reference else partial(_fp32_reference, weights.path, spec),
        max_absrel=settings.int8_max_absrel if settings.precision is Precision.INT8 else settings.golden_max_absrel,
        key=f"{weights.sha256} {spec.name}",
        folder=settings.cache_folder / "golden",
    )


def common_sizes(settings: Settings) -> list[Size]:
    """List the network's input sizes for the common aspect ratios, square first, then landscape."""
    is_upper = FAMILIES[settings.model_family].resize_bound is ResizeBound.UPPER
    longest = settings.input_size if is_upper else settings.max_long_side
    sources = (Size(ASPECT_SCALE * aspect.denominator, ASPECT_SCALE * aspect.numerator) for aspect in COMMON_ASPECTS)
    return list(dict.fromkeys(nearest_bucket(source, settings.input_size, longest) for source in sources))


def export_onnx(settings: Settings, folder: Path, sizes: Sequence[Size], *, int8: bool) -> list[Path]:
    """Export graphs of the declared model for `DEPTH_SERVER_ONNX_FOLDER`.

    Args:
        settings: What to export.
        folder: Where to.
        sizes: Input sizes; none stands for those of the common aspect ratios, landscape and portrait.
        int8: Quantise, in the place of fp32.

    Returns:
        The graphs.

    Raises:
        StartupError: Any reason of the contract.
        OSError: The folder cannot be written.
    """
    from depth_server.onnx_export import export_folder  # noqa: PLC0415 takes seconds

    spec = model_spec(settings.model_family, settings.model_variant)
    check_license(spec, settings.license_accepted)
    weights = obtain_weights(settings, logger.info)
    precision = Precision.INT8 if int8 else Precision.FP32
    landscape = common_sizes(settings)
    chosen = list(sizes) or list(
        dict.fromkeys(size for near in landscape for size in (near, Size(near.width, near.height)))
    )
    identity = GraphIdentity.of(spec, weights.sha256, precision.value)
    export_folder(partial(_fp32_model, weights.path, spec), identity, chosen, folder)
    return [folder / graph_name(size) for size in chosen]


def _load_torch(settings: Settings, spec: ModelSpec, weights: WeightsFile) -> DepthModel:
    from depth_server.torch_model import load_torch_model  # noqa: PLC0415 takes seconds

    del spec  # it follows from the settings
    model = load_torch_model(settings, weights.path)
    model.info = replace(model.info, weights_sha256=weights.sha256)
    return model


def _load_onnx(settings: Settings, spec: ModelSpec, weights: WeightsFile) -> DepthModel:
    from depth_server.onnx_model import OnnxDepthModel  # noqa: PLC0415 only this backend needs it

    model = OnnxDepthModel(
        spec,
        _graph_store(settings, spec, weights, settings.onnx_folder),
        precision=settings.precision.value,
        threads=settings.cpu_threads,
        max_sessions=settings.onnx_sessions,
        warm_up_sizes=common_sizes(settings),
    )
    model.info = replace(model.info, weights_sha256=weights.sha256)
    return model


def _load_tensorrt(settings: Settings, spec: ModelSpec, weights: WeightsFile) -> DepthModel:
    from depth_server.settings import Device  # noqa: PLC0415 beside the others
    from depth_server.tensorrt_engines import EngineCache  # noqa: PLC0415 only this backend needs it
    from depth_server.tensorrt_model import TensorRtDepthModel  # noqa: PLC0415 likewise
    from depth_server.tensorrt_runtime import load_runtime  # noqa: PLC0415 likewise
    from depth_server.torch_model import resolve_device  # noqa: PLC0415 likewise

    runtime = load_runtime(resolve_device(Device.CUDA))
    model = TensorRtDepthModel(
        spec,
        _graph_store(settings, spec, weights, settings.onnx_folder),
        EngineCache(settings.cache_folder / "tensorrt", runtime),
        max_engines=settings.onnx_sessions,
        max_batch=settings.tensorrt_max_batch,
        workspace_bytes=settings.tensorrt_workspace_bytes,
        warm_up_sizes=common_sizes(settings),
    )
    model.info = replace(model.info, weights_sha256=weights.sha256)
    return model


def _graph_store(settings: Settings, spec: ModelSpec, weights: WeightsFile, folder: Path | None) -> GraphStore:
    def export(size: Size, target: Path) -> None:
        from depth_server.onnx_export import GraphExporter  # noqa: PLC0415 takes seconds, and often nothing is exported

        GraphExporter(partial(_fp32_model, weights.path, spec), settings.precision)(size, target)

    identity = GraphIdentity.of(spec, weights.sha256, settings.precision.value)
    return GraphStore(identity, settings.cache_folder / "onnx", export, folder)


def _fp32_model(path: Path, spec: ModelSpec) -> "DepthAnything":
    from depth_server.model.weights import load_depth_anything  # noqa: PLC0415 takes seconds

    return load_depth_anything(path, spec)


def _fp32_reference(path: Path, spec: ModelSpec) -> Predict:
    import torch  # noqa: PLC0415 takes seconds

    model = _fp32_model(path, spec)

    def predict(pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            depth: NDArray[np.float32] = model(torch.from_numpy(pixel_values)).numpy()
        return depth

    return predict


_LOADERS: Final[dict[Backend, Callable[[Settings, ModelSpec, WeightsFile], DepthModel]]] = {
    Backend.PYTORCH: _load_torch,
    Backend.ONNX_RUNTIME: _load_onnx,
    Backend.TENSORRT: _load_tensorrt,
}
"""How each backend loads a model."""
