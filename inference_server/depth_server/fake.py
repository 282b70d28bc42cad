"""A model of a known service time, for tests and benchmarks of everything around the model."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from depth_server.engine import Forwarded, ModelInfo


class FakeDepthModel:
    """Takes `fixed_seconds + seconds_per_image * N` for N images, whatever their size; depth is the red channel.

    Args:
        fixed_seconds: Cost of a batch.
        seconds_per_image: Cost of an image in it.
        sleep: Lets the time pass.
    """

    def __init__(
        self, fixed_seconds: float, seconds_per_image: float, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._fixed_seconds = fixed_seconds
        self._seconds_per_image = seconds_per_image
        self._sleep = sleep
        self.info = ModelInfo("fake", "relative_inverse", "cpu", "FP32", align_corners=True)

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        """Wait as long as it takes; (N, 3, H, W) -> (N, H, W)."""
        self._sleep(self._fixed_seconds + self._seconds_per_image * len(pixel_values))
        return Forwarded(pixel_values[:, 0].copy())

    def warm_up(self) -> None:
        """Do nothing: there is nothing to warm."""
