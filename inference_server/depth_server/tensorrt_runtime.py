"""The real TensorRT 11 behind `TensorRtRuntime`, with torch for memory and streams on the GPU.

API: NVIDIA, "TensorRT Python API" and "Migrating from TensorRT 10.x to 11.x" (strong typing is always on; precision
comes from the graph). `tensorrt` brings no types, so it is `Any` here and nowhere else.
"""

import importlib
import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from depth_server.errors import EngineMemoryError, StartupError, StartupReason
from depth_server.tensorrt_engines import BuildOptions, GpuIdentity, TensorRtEngine
from depth_server.torch_model import is_out_of_memory

logger = logging.getLogger(__name__)

MIN_MAJOR_VERSION: Final = 11
"""Before it, networks were weakly typed unless told otherwise."""


def load_runtime(device: torch.device) -> "CudaTensorRtRuntime":
    """Import TensorRT.

    Raises:
        StartupError: `BackendUnavailable`: it is not installed, cannot be loaded or is too old.
    """
    remedy = (
        "install tensorrt-cu13 (its libraries come from NVIDIA's own index, and it wants the driver present), or set "
        "DEPTH_SERVER_BACKEND to PyTorch"
    )
    try:
        tensorrt: Any = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        message = f"DEPTH_SERVER_BACKEND=TensorRT, but the package tensorrt is not installed; {remedy}"
        raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message) from error
    except (ImportError, OSError) as error:
        message = f"tensorrt cannot be loaded: {error}; {remedy}"
        raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message) from error
    version = str(tensorrt.__version__)
    if int(version.partition(".")[0]) < MIN_MAJOR_VERSION:
        message = f"TensorRT {version} is installed, {MIN_MAJOR_VERSION} or newer is needed; {remedy}"
        raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message)
    return CudaTensorRtRuntime(tensorrt, device)


class CudaTensorRtRuntime:
    """See `TensorRtRuntime`.

    Args:
        tensorrt: The module.
        device: A CUDA device.
    """

    def __init__(self, tensorrt: Any, device: torch.device) -> None:  # noqa: ANN401 the package has no types
        self._tensorrt = tensorrt
        self._device = device
        self._logger = tensorrt.Logger(tensorrt.Logger.WARNING)
        self._runtime = tensorrt.Runtime(self._logger)

    @property
    def version(self) -> str:
        """See `TensorRtRuntime.version`."""
        return str(self._tensorrt.__version__)

    @property
    def gpu(self) -> GpuIdentity:
        """See `TensorRtRuntime.gpu`."""
        major, minor = torch.cuda.get_device_capability(self._device)
        return GpuIdentity(torch.cuda.get_device_name(self._device), f"{major}.{minor}")

    def build(self, graph: Path, options: BuildOptions) -> bytes:
        """See `TensorRtRuntime.build`."""
        tensorrt = self._tensorrt
        builder = tensorrt.Builder(self._logger)
        network = builder.create_network(0)
        parser = tensorrt.OnnxParser(network, self._logger)
        # By its path, so that the weights beside it are found.
        if not parser.parse_from_file(str(graph)):
            errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
            message = f"TensorRT {self.version} cannot parse {graph}: {errors}"
            raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message)
        config = builder.create_builder_config()
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        # FP32 means FP32: TF32 has 11 bits of mantissa.
        config.clear_flag(tensorrt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        profile.set_shape(
            options.input_name, options.shape(1), options.shape(options.max_batch), options.shape(options.max_batch)
        )
        config.add_optimization_profile(profile)
        serialised = builder.build_serialized_network(network, config)
        if serialised is None:
            message = f"TensorRT {self.version} cannot build {graph} for {self.gpu.name}; its log tells why"
            raise StartupError(StartupReason.BACKEND_UNAVAILABLE, message)
        return bytes(serialised)

    def deserialise(self, engine: bytes) -> TensorRtEngine | None:
        """See `TensorRtRuntime.deserialise`."""
        loaded = self._runtime.deserialize_cuda_engine(engine)
        return None if loaded is None else CudaTensorRtEngine(self._tensorrt, loaded, self._device)


class CudaTensorRtEngine:
    """See `TensorRtEngine`."""

    def __init__(self, tensorrt: Any, engine: Any, device: torch.device) -> None:  # noqa: ANN401 the package has no types
        self._engine = engine
        self._context = engine.create_execution_context()
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        mode = tensorrt.TensorIOMode
        self._input = next(name for name in names if engine.get_tensor_mode(name) == mode.INPUT)
        self._outputs = [name for name in names if engine.get_tensor_mode(name) == mode.OUTPUT]

    def run(self, pixel_values: NDArray[np.float32]) -> tuple[tuple[NDArray[np.float32], ...], float]:
        """See `TensorRtEngine.run`."""
        count, _, height, width = pixel_values.shape
        try:
            with torch.cuda.stream(self._stream):
                batch = torch.from_numpy(pixel_values).to(self._device)
                outputs = [torch.empty(count, height, width, device=self._device) for _ in self._outputs]
                self._context.set_input_shape(self._input, tuple(batch.shape))
                self._context.set_tensor_address(self._input, batch.data_ptr())
                for name, output in zip(self._outputs, outputs, strict=True):
                    self._context.set_tensor_address(name, output.data_ptr())
                began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch
                began.record(self._stream)
                executed = self._context.execute_async_v3(self._stream.cuda_stream)
                ended.record(self._stream)
                values = tuple(output.cpu().numpy() for output in outputs)
            ended.synchronize()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            message = f"no memory on cuda for {count} inputs of {width}x{height} pixels"
            raise EngineMemoryError(message) from error
        if not executed:
            message = f"TensorRT did not execute {count} inputs of {width}x{height}; its log tells why"
            raise RuntimeError(message)
        return values, began.elapsed_time(ended) / 1000
