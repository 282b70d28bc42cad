"""Photographs in, pictures of depth out."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.demo_weights.network import PATCH_SIZE, normalise

SHORT_SIDE: Final = 518
"""Shorter side of the network's input, as upstream's lower bound."""

Image = NDArray[np.uint8]
"""(H, W, 3) BGR, as OpenCV holds it."""


def load_photographs(folder: Path | None) -> dict[str, Image]:
    """Read scikit-learn's two photographs and those of a folder, by name."""
    found: dict[str, Image] = {}
    try:
        from sklearn.datasets import load_sample_images  # noqa: PLC0415 only the machine that looks needs it
    except ImportError:
        pass
    else:
        bunch = load_sample_images()
        found = {
            Path(name).stem: np.ascontiguousarray(image[:, :, ::-1])
            for name, image in zip(bunch.filenames, bunch.images, strict=True)
        }
    if folder is not None:
        for path in sorted([*folder.glob("*.jpg"), *folder.glob("*.png"), *folder.glob("*.jpeg")]):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                message = f"{path}: OpenCV cannot read it as a picture"
                raise ValueError(message)
            found[path.stem] = np.asarray(image, dtype=np.uint8)
    return found


def network_size(height: int, width: int, short_side: int = SHORT_SIDE) -> tuple[int, int]:
    """Height and width in multiples of 14 whose shorter side is about `short_side`, aspect ratio kept."""
    scale = short_side / min(height, width)
    return tuple(max(1, round(side * scale / PATCH_SIZE)) * PATCH_SIZE for side in (height, width))  # type: ignore[return-value]  # two


def to_tensor(image: Image) -> Tensor:
    """(H, W, 3) BGR bytes to (1, 3, H, W) RGB in [0, 1]."""
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    return torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255


def to_image(rgb: Tensor) -> Image:
    """(3, H, W) RGB in [0, 1] to (H, W, 3) BGR bytes."""
    values = (rgb.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(values[:, :, ::-1])


def colourise(inverse: Tensor) -> Image:
    """Colour (H, W) inverse depth from its least to its greatest value; near is bright."""
    low, high = inverse.min(), inverse.max()
    grey = ((inverse - low) / (high - low).clamp(min=1e-9) * 255).to(torch.uint8).cpu().numpy()
    return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), dtype=np.uint8)


@torch.no_grad()
def predict(network: nn.Module, image: Image, device: torch.device, short_side: int = SHORT_SIDE) -> Tensor:
    """Inverse depth of a photograph at the network's size, (H, W)."""
    height, width = network_size(image.shape[0], image.shape[1], short_side)
    # Area-averaging first: bicubic without it aliases when a large photograph is made small.
    shrinks = height < image.shape[0]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    pixel_values = normalise(to_tensor(np.asarray(resized, dtype=np.uint8)).to(device))
    inverse: Tensor = network(pixel_values)[0]
    return inverse.float()


def side_by_side(image: Image, inverse: Tensor) -> Image:
    """The photograph beside its coloured depth, at the size of the depth."""
    height, width = inverse.shape
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.hstack([np.asarray(small, dtype=np.uint8), colourise(inverse)])


def write(path: Path, image: Image) -> None:
    """Write a picture; the suffix names the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        message = f"{path}: could not be written"
        raise OSError(message)
