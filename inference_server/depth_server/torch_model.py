"""Depth Anything on torch as the engine's `DepthModel`.

Importing this module takes seconds, so the engine's thread does it.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
        """Predict depth of (N, 3, H, W); see `DepthModel.forward`."""
        with self._telling_memory_errors(pixel_values.shape):
            batch = torch.from_numpy(pixel_values)
            if self._device.type == "cuda":
                return self._begin(batch.to(self._device, self._dtype))()
            return Forwarded(self._predict(batch.to(self._dtype)).numpy())

    def warm_up(self) -> None:
        """Run on noise, twice on a GPU, where the first pass allocates and picks kernels; see `DepthModel.warm_up`."""
        size = self._warm_up_size
        noise = np.random.Generator(np.random.PCG64(0)).standard_normal((1, 3, size, size), dtype=np.float32)
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
        depth: Tensor = self._model(batch)
        return depth

    def _begin(self, batch: Tensor) -> Callable[[], Forwarded]:
        """Enqueue a forward pass of a batch on the GPU; the result waits for it."""
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch
        began.record()
        depth = self._predict(batch)
        ended.record()

        def finish() -> Forwarded:
            values = depth.cpu()
            ended.synchronize()
            return Forwarded(values.numpy(), began.elapsed_time(ended) / 1000)

        return finish

    @contextlib.contextmanager
    def _telling_memory_errors(self, shape: Sequence[int]) -> Iterator[None]:
        """Turn an allocation that failed into `EngineMemoryError`, with the memory freed for what comes next."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            count, _, height, width = shape
            message = f"no memory on {self._device.type} for {count} inputs of {width}x{height} pixels"
            raise EngineMemoryError(message) from error


class CudaDepthModel(TorchDepthModel):
    """A model on a GPU: the next batch is copied there while this one is computed; see `PipelinedModel`."""

    def __init__(self, model: DepthAnything, device: torch.device, precision: Precision, warm_up_size: int) -> None:
        super().__init__(model, device, precision, warm_up_size)
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch

    @torch.inference_mode()
    def stage(self, images: Sequence[NDArray[np.float32]]) -> object:
        """Copy (3, H, W) images through pinned memory on a stream of their own."""
        shape = (len(images), *images[0].shape)
        with self._telling_memory_errors(shape):
            # torch's pinned allocator reuses this memory only after the copies that were enqueued from it.
            pinned = torch.empty(shape, dtype=torch.float32, pin_memory=True)
            for target, image in zip(pinned, images, strict=True):
                target.copy_(torch.from_numpy(image))
            with torch.cuda.stream(self._copies):
                batch = pinned.to(self._device, non_blocking=True).to(self._dtype)
                ready = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch
                ready.record(self._copies)
            return StagedBatch(batch, ready)

    @torch.inference_mode()
    def launch(self, staged: object) -> Callable[[], Forwarded]:
        """Enqueue a forward pass behind the copy of its batch."""
        if not isinstance(staged, StagedBatch):
            message = f"{type(staged).__name__} was not made by `stage`"
            raise TypeError(message)
        shape = staged.batch.shape
        with self._telling_memory_errors(shape):
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(staged.ready)
            staged.batch.record_stream(stream)
            finish = self._begin(staged.batch)

        def finish_telling() -> Forwarded:
            with torch.inference_mode(), self._telling_memory_errors(shape):
                return finish()

        return finish_telling


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """A batch on its way to the GPU.

    Attributes:
        batch: (N, 3, H, W).
        ready: Recorded behind its copy.
    """

    batch: Tensor
    ready: torch.cuda.Event


def load_torch_model(settings: Settings, weights: Path) -> TorchDepthModel:
    """Load the declared model onto the declared device.

    Args:
        settings: Model, device and precision.
        weights: Verified file.

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
        model_type = CudaDepthModel if device.type == "cuda" else TorchDepthModel
        return model_type(load_depth_anything(weights, spec), device, settings.precision, settings.input_size)
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
