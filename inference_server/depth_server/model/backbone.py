"""DINOv2 features from timm's vision transformer, with the position embedding that Depth Anything was trained with."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import timm
import torch
import torch.nn.functional as F  # noqa: N812 torch's own convention
from torch import Tensor, nn

from depth_server.model.variants import PATCH_SIZE, POS_EMBED_GRID, VariantSpec

INTERPOLATE_OFFSET: Final = 0.1
"""Added to the patch grid before the scale factor is computed (dinov2 `interpolate_offset`)."""

POS_EMBED_CACHE_GRIDS: Final = 16
"""Grids whose resampled embedding is kept; one of ViT-L at 518x686 takes 7.4 MB in fp32."""


class PositionEmbedding:
    """Resamples the stored 37x37 position grid to any patch grid and keeps the latest results.

    timm resamples with antialiasing and to an exact size; upstream uses neither, and at sizes other than 518x518 the
    difference reaches the depth map (dinov2 `vision_transformer.py`, `interpolate_pos_encoding`).
    """

    def __init__(self, capacity: int = POS_EMBED_CACHE_GRIDS) -> None:
        self._capacity = capacity
        self._cache: OrderedDict[tuple[int, int, torch.dtype, torch.device], Tensor] = OrderedDict()

    def clear(self) -> None:
        """Forget every grid: the stored embedding was replaced."""
        self._cache.clear()

    def __call__(self, pos_embed: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Return the embedding of CLS and patches, (1, 1 + rows * columns, D), rounded to `dtype` once."""
        key = (rows, columns, dtype, pos_embed.device)
        cached = self._cache.get(key)
        if cached is None:
            cached = resample_pos_embed(pos_embed, rows, columns).to(dtype)
            self._cache[key] = cached
            if len(self._cache) > self._capacity:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return cached


def resample_pos_embed(pos_embed: Tensor, rows: int, columns: int) -> Tensor:
    """Resample a position embedding as upstream does, computing in fp32.

    Args:
        pos_embed: (1, 1 + 37 * 37, D), CLS first.
        rows: Patches along the height.
        columns: Patches along the width.

    Returns:
        (1, 1 + rows * columns, D) in fp32.
    """
    if rows == columns == POS_EMBED_GRID:
        return pos_embed.float()
    cls_embed, grid = pos_embed[:, :1].float(), pos_embed[:, 1:].float()
    grid = grid.reshape(1, POS_EMBED_GRID, POS_EMBED_GRID, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(
        grid,
        # The factor, not the size: it enters the sample positions, and the offset makes it differ from the ratio.
        scale_factor=(
            (rows + INTERPOLATE_OFFSET) / POS_EMBED_GRID,
            (columns + INTERPOLATE_OFFSET) / POS_EMBED_GRID,
        ),
        mode="bicubic",
        antialias=False,
    )
    if grid.shape[-2:] != (rows, columns):
        message = f"position grid resampled to {tuple(grid.shape[-2:])}, expected {(rows, columns)}"
        raise RuntimeError(message)
    grid = grid.flatten(2).transpose(1, 2)
    return torch.cat([cls_embed, grid], dim=1)


class DinoV2Backbone(nn.Module):
    """A timm `vit_*_patch14_dinov2` that returns normalised outputs of chosen blocks.

    Args:
        spec: Dimensions of the variant.
        layers: Indices of the blocks, ascending.
        final_norm_eps: Epsilon of the LayerNorm on the outputs.
    """

    def __init__(self, spec: VariantSpec, layers: Sequence[int], final_norm_eps: float) -> None:
        super().__init__()
        self.layers = tuple(layers)
        vit: Any = timm.create_model(
            spec.timm_name,
            embed_dim=spec.embed_dim,
            depth=spec.depth,
            num_heads=spec.num_heads,
            img_size=POS_EMBED_GRID * PATCH_SIZE,
            num_classes=0,
            dynamic_img_size=True,
        )
        vit.norm.eps = final_norm_eps
        self.vit = vit
        self.position_embedding = PositionEmbedding()

    def cast(self, dtype: torch.dtype) -> None:
        """Compute in `dtype`; the stored position grid keeps its precision, as it is resampled in fp32."""
        stored = self.vit.pos_embed.data
        self.vit.to(dtype)
        self.vit.pos_embed.data = stored.float()
        self.position_embedding.clear()

    def forward(self, pixel_values: Tensor, positions: Tensor | None = None) -> list[Tensor]:
        """Compute patch features.

        Args:
            pixel_values: (B, 3, H, W), H and W multiples of 14.
            positions: (1, 1 + H / 14 * W / 14, D), the resampled embedding of this size, where it is to be a constant.

        Returns:
            One (B, D, H / 14, W / 14) map per layer, after the final LayerNorm: upstream normalises every
            intermediate output, not only the last.
        """
        vit = self.vit
        patches = vit.patch_embed.proj(pixel_values)
        batch, _, rows, columns = patches.shape
        tokens = torch.cat([vit.cls_token.expand(batch, -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        if positions is None:
            positions = self.position_embedding(vit.pos_embed, rows, columns, tokens.dtype)
        tokens = tokens + positions
        features: list[Tensor] = []
        for index, block in enumerate(vit.blocks):
            tokens = block(tokens)
            if index in self.layers:
                normalised = vit.norm(tokens)[:, 1:]
                features.append(normalised.transpose(1, 2).reshape(batch, -1, rows, columns))
        return features
