"""Test doubles of the model behind the engine."""

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from depth_server.engine import Forwarded, ModelInfo

INFO = ModelInfo(
    name="depth_anything_v2_vits14", kind="relative_inverse", device="cpu", precision="FP32", align_corners=True
)

WAIT_SECONDS = 10.0


def brightness(pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
    depth: NDArray[np.float32] = pixel_values.mean(axis=0)
    return depth


class FakeModel:
    """Calls `behaviour` for every image, and can be held inside a forward pass."""

    def __init__(self, behaviour: Callable[[NDArray[np.float32]], NDArray[np.float32]] = brightness) -> None:
        self.info = INFO
        self.behaviour = behaviour
        self.gpu_seconds: float | None = None
        self.forwarded = 0
        self.warm_ups = 0
        self.entered = threading.Event()
        self.release = threading.Event()
        self.release.set()

    def hold(self) -> None:
        """Let the next forward pass wait for `release`."""
        self.entered.clear()
        self.release.clear()

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        self.entered.set()
        if not self.release.wait(WAIT_SECONDS):
            raise AssertionError("the test never released the forward pass")
        self.forwarded += len(pixel_values)
        return Forwarded(np.stack([self.behaviour(image) for image in pixel_values]), self.gpu_seconds)

    def warm_up(self) -> None:
        self.warm_ups += 1
