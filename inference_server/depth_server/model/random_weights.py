"""Deterministic random weights in the official layout, for tests and demonstrations without a download.

They exercise everything but the quality: depth from them is finite and varied, and means nothing.
"""

import math
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from depth_server.model.layout import Shape, official_layout
from depth_server.model.variants import ModelFamily, ModelVariant
from depth_server.model.weights_file import WEIGHTS_SUFFIXES

OUTPUT_WEIGHT: Final = ".scratch.output_conv2.2.weight"
"""End of the last convolution's key; made non-negative so that a ReLU after it does not cut the map to zeros."""

TRANSPOSED_WEIGHTS: Final = (".resize_layers.0.weight", ".resize_layers.1.weight")
"""Ends of the keys of transposed convolutions, kernel = stride: an output pixel sums over the input channels, the first
axis, once."""

NORM_SPREAD: Final = 0.1
"""Deviation of LayerNorm's weights from 1, of its biases from 0 and of all other biases from 0."""

LAYER_SCALE: Final = 0.5
"""Mean of LayerScale's gamma: large enough that a wrong block changes the depth visibly."""

TOKEN_SPREAD: Final = 0.5
"""Deviation of the CLS token and of position embeddings: large enough that wrong positions change the depth."""


def random_state_dict(
    variant: ModelVariant, seed: int, family: ModelFamily = ModelFamily.DEPTH_ANYTHING_V2
) -> dict[str, NDArray[np.float32]]:
    """Draw every tensor of the official layout, unused ones included.

    Each tensor depends on the seed and its own name only, not on the order, on torch or on the number of threads.
    """
    return {key: _random_tensor(key, shape, seed) for key, shape in official_layout(variant, family).items()}


def write_random_weights(
    variant: ModelVariant, path: Path, seed: int, family: ModelFamily = ModelFamily.DEPTH_ANYTHING_V2
) -> None:
    """Write random weights; the file appears under its name only when it is complete.

    Args:
        variant: Variant to imitate.
        path: Target; its suffix, `.pth` or `.safetensors`, chooses the format.
        seed: The same seed gives the same numbers.
        family: Whose layout to imitate; that of the first two generations is the same.

    Raises:
        ValueError: The suffix is neither.
        OSError: The file cannot be written.
    """
    if path.suffix not in WEIGHTS_SUFFIXES:
        message = f"{path}: the name must end with {' or '.join(WEIGHTS_SUFFIXES)}"
        raise ValueError(message)
    state = random_state_dict(variant, seed, family)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".safetensors":
            safetensors.numpy.save_file(state, partial)
        else:
            import torch  # noqa: PLC0415 takes seconds to import, and only this format needs it

            torch.save({key: torch.from_numpy(array) for key, array in state.items()}, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _random_tensor(key: str, shape: Shape, seed: int) -> NDArray[np.float32]:
    mean, deviation = _distribution(key, shape)
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
    array = rng.standard_normal(shape, dtype=np.float32)
    array *= np.float32(deviation)
    array += np.float32(mean)
    return np.fabs(array, out=array) if key.endswith(OUTPUT_WEIGHT) else array


def _distribution(key: str, shape: Shape) -> tuple[float, float]:
    """Choose mean and deviation so that activations neither die out nor grow with depth."""
    if key.endswith(".gamma"):
        return LAYER_SCALE, LAYER_SCALE * NORM_SPREAD
    if ".norm" in key and key.endswith(".weight"):
        return 1.0, NORM_SPREAD
    if key.endswith(".bias"):
        return 0.0, NORM_SPREAD
    if key.endswith(OUTPUT_WEIGHT):
        return 0.0, 1 / math.prod(shape[1:])
    if key.endswith(".weight"):
        inputs = shape[0] if key.endswith(TRANSPOSED_WEIGHTS) else math.prod(shape[1:])
        return 0.0, 1 / math.sqrt(inputs)
    return 0.0, TOKEN_SPREAD
