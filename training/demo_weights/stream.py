"""An endless stream of training batches; nothing is shown twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F  # noqa: N812 torch's own convention
from torch import Tensor

from training.demo_weights import reference_renderer
from training.demo_weights.kinds import KIND_SHARES
from training.demo_weights.photography import photograph
from training.demo_weights.scenes import sample_scenes

if TYPE_CHECKING:
    from training.demo_weights.tables import SceneBatch

CHUNK: Final = 8192
"""Scenes whose tables are drawn at once."""


def render(batch: SceneBatch, height: int, width: int, samples: int = 1) -> tuple[Tensor, Tensor]:
    """Render with `samples` x `samples` rays per pixel.

    Args:
        batch: B scenes.
        height: Rows of the image.
        width: Columns of the image.
        samples: Rays per side of a pixel.

    Returns:
        Mean radiance, (B, 3, H, W), and inverse depth of one ray per pixel, (B, H, W).
    """
    if batch.primitives.is_cuda:
        # Triton is there only where CUDA is.
        from training.demo_weights import triton_renderer  # noqa: PLC0415

        draw = triton_renderer.render
    else:
        draw = reference_renderer.render
    rgb, inverse = draw(batch.primitives, batch.scenes, height * samples, width * samples)
    if samples == 1:
        return rgb, inverse
    # Highlights are limited first: one bright ray must not whiten a pixel's whole neighbourhood.
    return F.avg_pool2d(rgb.clamp(max=8.0), samples), inverse[:, ::samples, ::samples].contiguous()


class BatchStream:
    """Draws scenes, renders them and photographs them.

    Args:
        seed: Seed of everything.
        device: Where it happens.
        chunk: Scenes whose tables are drawn at once.
        kind_shares: How often each kind of scene is drawn.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device,
        chunk: int = CHUNK,
        kind_shares: tuple[float, ...] = KIND_SHARES,
    ) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self._chunk, self._kind_shares = chunk, kind_shares
        self._scenes: SceneBatch | None = None
        self._next = 0

    def take(self, count: int) -> SceneBatch:
        """Take scenes that were not taken before."""
        if self._scenes is None or self._next + count > self._chunk:
            self._scenes = sample_scenes(max(self._chunk, count), self.generator, self._kind_shares)
            self._next = 0
        start = self._next
        self._next += count
        return self._scenes[start : start + count]

    @torch.no_grad()
    def batch(self, count: int, height: int, width: int, samples: int) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1], (B, 3, H, W), and inverse depth in 1/m, (B, H, W)."""
        radiance, inverse = render(self.take(count), height, width, samples)
        return photograph(radiance, inverse, self.generator)
