"""Depth Anything on torch as the engine's `DepthModel`.

Importing this module takes seconds, so the engine's thread does it.
"""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_server.engine import Forwarded, ModelInfo
from depth_server.errors import EngineMemoryError, StartupError, StartupReason
from depth_server.model.depth_anything import DepthAnything
from depth_server.model.variants import model_spec
from depth_server.model.weights import load_depth_anything
from depth_server.settings import Device, Precision, Settings, check_precision

logger = logging.getLogger(__name__)

DTYPES: dict[Precision, torch.dtype] = {
    Precision.FP32: torch.float32,
    Precision.FP16: torch.float16,
    Precision.BF16: torch.bfloat16,
}
"""torch's type of each precision."""


class TorchDepthModel:
    """A model with its weights on a device.

    Args:
        model: On the CPU, in fp32.
        device: Where it goes.
        precision: Type it computes in.
        warm_up_size: Side of the square input of the warm-up, in pixels.
    """

    def __init__(self, model: DepthAnything, device: torch.device, precision: Precision, warm_up_size: int) -> None:
        self._device = device
        self._dtype = DTYPES[precision]
        self._warm_up_size = warm_up_size
        self._model = model.to(device)
        self._model.cast(self._dtype)
        self.info = ModelInfo(
            name=model.spec.name,
            kind=model.spec.kind.value,
            device=device.type,
            precision=precision.value,
            align_corners=model.spec.align_corners,
        )

    @torch.inference_mode()
    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        """Predict depth of (3, H, W); see `DepthModel.forward`."""
        try:
            batch = torch.from_numpy(pixel_values).unsqueeze(0)
            if self._device.type == "cuda":
                return self._forward_timed(batch)
            return Forwarded(self._predict(batch).numpy())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            height, width = pixel_values.shape[1:]
            message = f"no memory on {self._device.type} for an input of {width}x{height} pixels"
            raise EngineMemoryError(message) from error

    def warm_up(self) -> None:
        """Run on noise, twice on a GPU, where the first pass allocates and picks kernels; see `DepthModel.warm_up`."""
        size = self._warm_up_size
        noise = np.random.Generator(np.random.PCG64(0)).standard_normal((3, size, size), dtype=np.float32)
        try:
            depth = self.forward(noise).depth
            if self._device.type == "cuda":
                depth = self.forward(noise).depth
        except EngineMemoryError as error:
            raise StartupError(StartupReason.OUT_OF_MEMORY, f"the warm-up found {error}") from error
        if not np.isfinite(depth).all():
            message = f"the weights give NaN or infinite depth in {self.info.precision}"
            raise StartupError(StartupReason.WEIGHTS_INVALID, message)

    def _predict(self, batch: Tensor) -> Tensor:
        depth: Tensor = self._model(batch.to(self._device, self._dtype))
        return depth.squeeze(0)

    def _forward_timed(self, batch: Tensor) -> Forwarded:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch
        began.record()
        depth = self._predict(batch)
        ended.record()
        depth = depth.cpu()
        ended.synchronize()
        return Forwarded(depth.numpy(), began.elapsed_time(ended) / 1000)


def load_torch_model(settings: Settings) -> TorchDepthModel:
    """Load the declared model onto the declared device.

    Raises:
        StartupError: `DeviceUnavailable`, `InvalidSettings`, `WeightsInvalid`, `ModelMismatch` or `OutOfMemory`.
    """
    device = resolve_device(settings.device)
    try:
        check_precision(Device(device.type), settings.precision)
    except ValueError as error:
        raise StartupError(StartupReason.INVALID_SETTINGS, str(error)) from error
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    if device.type == "cuda":
        # FP32 means FP32: cuDNN would use TF32, with 11 bits of mantissa, unasked.
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # made by torch at run time
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    spec = model_spec(settings.model_family, settings.model_variant)
    try:
        return TorchDepthModel(
            load_depth_anything(settings.weights, spec), device, settings.precision, settings.input_size
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"no memory on {device.type} for {spec.name}"
        raise StartupError(StartupReason.OUT_OF_MEMORY, message) from error


def resolve_device(requested: Device) -> torch.device:
    """Choose the device.

    Raises:
        StartupError: `DeviceUnavailable`: CUDA was asked for and there is none.
    """
    if requested is Device.CPU:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if requested is Device.CUDA:
        message = (
            f"DEPTH_SERVER_DEVICE=cuda, but torch {torch.__version__} finds no CUDA device; "
            "request nvidia.com/gpu for the pod, check the driver, or set the device to cpu"
        )
        raise StartupError(StartupReason.DEVICE_UNAVAILABLE, message)
    logger.warning("DEPTH_SERVER_DEVICE=auto found no CUDA device: the model runs on the CPU, many times slower")
    return torch.device("cpu")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an allocation that failed from other errors; torch's CPU allocator raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
