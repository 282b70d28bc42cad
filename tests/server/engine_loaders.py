"""Models for engine processes of tests; each is loaded by its name."""

import os
import signal
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from depth_server.engine import Forwarded
from depth_server.errors import StartupError, StartupReason
from depth_server.fake import FakeDepthModel

POISON = -1.0
"""An image that begins with this value kills the process that computes it."""

HANG = -2.0
"""An image that begins with this value is never finished."""

BREAK = -3.0
"""An image that begins with this value makes the forward pass raise."""


class FragileModel(FakeDepthModel):
    """Takes 20 ms, or does what the first pixel asks for."""

    def __init__(self) -> None:
        super().__init__(0.02, 0.0)

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        first = pixel_values[:, 0, 0, 0]
        if POISON in first:
            os.kill(os.getpid(), signal.SIGKILL)
        if HANG in first:
            self._sleep(3600)
        if BREAK in first:
            message = "CUDA error: an illegal memory access was encountered"
            raise RuntimeError(message)
        return super().forward(pixel_values)


def fragile(report: Callable[[str], None]) -> FragileModel:
    report("a fragile model is made")
    return FragileModel()


def broken(_: Callable[[str], None]) -> FragileModel:
    message = "the weights are not there"
    raise StartupError(StartupReason.WEIGHTS_NOT_FOUND, message)


def killed(_: Callable[[str], None]) -> FragileModel:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
