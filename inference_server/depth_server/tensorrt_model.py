"""Depth Anything on TensorRT as the engine's `DepthModel`."""

import logging
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depth_server.engine import Forwarded, ModelInfo
from depth_server.errors import EngineMemoryError, StartupError, StartupReason
from depth_server.model.sky import fill_sky
from depth_server.model.variants import ModelSpec
from depth_server.onnx_graphs import INPUT_NAME, GraphStore
from depth_server.preprocess import Size
from depth_server.tensorrt_engines import BuildOptions, EngineCache, TensorRtEngine

logger = logging.getLogger(__name__)


class TensorRtDepthModel:
    """Engines of one model, one per input size, of which a bounded number is loaded.

    Args:
        spec: What the graphs hold.
        graphs: Where the ONNX graphs are, in the precision that is to be computed in.
        engines: Where their engines are.
        max_engines: Input sizes held at a time.
        max_batch: Largest batch that engines are built for; a larger one is run in parts.
        workspace_bytes: Scratch memory of a build.
        warm_up_sizes: Inputs that engines are made for before the first request, the most common one first.
    """

    def __init__(
        self,
        spec: ModelSpec,
        graphs: GraphStore,
        engines: EngineCache,
        *,
        max_engines: int,
        max_batch: int,
        workspace_bytes: int,
        warm_up_sizes: Sequence[Size],
    ) -> None:
        self._graphs = graphs
        self._engines = engines
        self._max_engines = max_engines
        self._max_batch = max_batch
        self._workspace_bytes = workspace_bytes
        self._warm_up_sizes = tuple(warm_up_sizes)
        self._loaded: OrderedDict[Size, TensorRtEngine] = OrderedDict()
        self.info = ModelInfo(
            name=spec.name,
            kind=spec.kind.value,
            device="cuda",
            precision=graphs.identity.precision,
            align_corners=spec.align_corners,
        )

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        """Predict depth of (N, 3, H, W); see `DepthModel.forward`."""
        engine = self._engine(Size(pixel_values.shape[2], pixel_values.shape[3]))
        depths, seconds = [], 0.0
        for start in range(0, len(pixel_values), self._max_batch):
            outputs, took = engine.run(np.ascontiguousarray(pixel_values[start : start + self._max_batch]))
            depths.append(outputs[0] if len(outputs) == 1 else fill_sky(outputs[0], outputs[1]))
            seconds += took
        return Forwarded(np.concatenate(depths) if len(depths) > 1 else depths[0], seconds)

    def warm_up(self) -> None:
        """Make the engines of the common sizes and run the first one; see `DepthModel.warm_up`."""
        for size in reversed(self._warm_up_sizes[: self._max_engines]):
            self._engine(size)
        first = self._warm_up_sizes[0]
        noise = np.random.Generator(np.random.PCG64(0)).standard_normal(
            (1, 3, first.height, first.width), dtype=np.float32
        )
        try:
            depth = self.forward(noise).depth
        except EngineMemoryError as error:
            raise StartupError(StartupReason.OUT_OF_MEMORY, f"the warm-up found {error}") from error
        if not np.isfinite(depth).all():
            message = f"the engine gives NaN or infinite depth in {self.info.precision}"
            raise StartupError(StartupReason.OUTPUT_MISMATCH, message)

    def _engine(self, size: Size) -> TensorRtEngine:
        engine = self._loaded.get(size)
        if engine is not None:
            self._loaded.move_to_end(size)
            return engine
        while len(self._loaded) >= self._max_engines:
            dropped, _ = self._loaded.popitem(last=False)
            logger.info("dropped the engine of %dx%d", dropped.width, dropped.height)
        options = BuildOptions(
            size=size, max_batch=self._max_batch, workspace_bytes=self._workspace_bytes, input_name=INPUT_NAME
        )
        identity = self._graphs.identity
        engine = self._engines.engine(self._graphs.path(size), identity.weights_sha256, identity.precision, options)
        self._loaded[size] = engine
        return engine
