"""Depth Anything on ONNX Runtime, on the CPU, as the engine's `DepthModel`."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from depth_server.engine import Forwarded, ModelInfo
from depth_server.errors import EngineMemoryError, StartupError, StartupReason
from depth_server.model.sky import fill_sky
from depth_server.model.variants import ModelSpec
from depth_server.onnx_graphs import INPUT_NAME, GraphStore, output_names
from depth_server.preprocess import Size

logger = logging.getLogger(__name__)

MEMORY_MESSAGES: Final = ("Failed to allocate memory", "bad_alloc", "out of memory")
"""By these words ONNX Runtime's errors tell that memory was short; it has no class for that."""


class OnnxDepthModel:
    """Graphs of one model with a bounded number of sessions.

    Args:
        spec: What the graphs hold.
        graphs: Where they are.
        precision: `FP32` or `INT8`.
        threads: Of one forward pass; 0 is ONNX Runtime's choice.
        max_sessions: Input sizes held at a time; each holds the weights once more.
        warm_up_sizes: Inputs that sessions are made for before the first request, the most common one first.
    """

    def __init__(
        self,
        spec: ModelSpec,
        graphs: GraphStore,
        *,
        precision: str,
        threads: int,
        max_sessions: int,
        warm_up_sizes: Sequence[Size],
    ) -> None:
        self._spec = spec
        self._graphs = graphs
        self._threads = threads
        self._max_sessions = max_sessions
        self._warm_up_sizes = tuple(warm_up_sizes)
        self._names = output_names(spec)
        self._sessions: OrderedDict[Size, onnxruntime.InferenceSession] = OrderedDict()
        self.info = ModelInfo(
            name=spec.name,
            kind=spec.kind.value,
            device="cpu",
            precision=precision,
            align_corners=spec.align_corners,
        )

    @property
    def sessions(self) -> int:
        """Sessions that are held."""
        return len(self._sessions)

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        """Predict depth of (N, 3, H, W); see `DepthModel.forward`."""
        height, width = pixel_values.shape[2:]
        try:
            session = self._session(Size(height, width))
            outputs = session.run(list(self._names), {INPUT_NAME: np.ascontiguousarray(pixel_values)})
        except (RuntimeError, MemoryError, Fail, RuntimeException) as error:
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in MEMORY_MESSAGES):
                raise
            message = f"no memory on cpu for {len(pixel_values)} inputs of {width}x{height} pixels"
            raise EngineMemoryError(message) from error
        depth: NDArray[np.float32] = np.asarray(outputs[0], dtype=np.float32)
        return Forwarded(depth if len(outputs) == 1 else fill_sky(depth, np.asarray(outputs[1], dtype=np.float32)))

    def warm_up(self) -> None:
        """Make the sessions of the common sizes and run the first one; see `DepthModel.warm_up`."""
        try:
            for size in reversed(self._warm_up_sizes[: self._max_sessions]):
                self._session(size)
            first = self._warm_up_sizes[0]
            noise = np.random.Generator(np.random.PCG64(0)).standard_normal(
                (1, 3, first.height, first.width), dtype=np.float32
            )
            depth = self.forward(noise).depth
        except EngineMemoryError as error:
            raise StartupError(StartupReason.OUT_OF_MEMORY, f"the warm-up found {error}") from error
        if not np.isfinite(depth).all():
            message = f"the weights give NaN or infinite depth in {self.info.precision}"
            raise StartupError(StartupReason.WEIGHTS_INVALID, message)

    def _session(self, size: Size) -> onnxruntime.InferenceSession:
        session = self._sessions.get(size)
        if session is not None:
            self._sessions.move_to_end(size)
            return session
        path = self._graphs.path(size)
        # Room first: two sessions more than allowed would be held for a moment otherwise.
        while len(self._sessions) >= self._max_sessions:
            dropped, _ = self._sessions.popitem(last=False)
            logger.info(
                "dropped the session of %dx%d for one of %dx%d", dropped.width, dropped.height, size.width, size.height
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._sessions[size] = session
        return session
