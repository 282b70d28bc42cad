"""The tiny variant of Depth Anything, with modules named as in the official checkpoints.

Structure: timm's vision transformer as DINOv2 configures it (Oquab et al., arXiv 2304.07193) and the DPT head as
Depth Anything uses it (Ranftl et al., arXiv 2103.13413; `depth_anything_v2/dpt.py`). The state dict is the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final, cast

import torch
import torch.nn.functional as F  # noqa: N812 torch's own convention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

PATCH_SIZE: Final = 14
"""Side of a patch in pixels."""

POS_EMBED_GRID: Final = 37
"""Side of the stored position grid in patches, 518 / 14."""

INTERPOLATE_OFFSET: Final = 0.1
"""Added to the patch grid before the scale factor is computed (dinov2 `interpolate_offset`)."""

HIDDEN_CHANNELS: Final = 32
"""Channels between the last two convolutions."""

OUTPUT_BIAS: Final = 0.5
"""Bias of the last convolution before training."""

PIXEL_MEAN: Final = (0.485, 0.456, 0.406)
"""ImageNet's mean, RGB."""

PIXEL_DEVIATION: Final = (0.229, 0.224, 0.225)
"""ImageNet's standard deviation, RGB."""

UNUSED_KEYS: Final = ("pretrained.mask_token", "depth_head.scratch.refinenet4.resConfUnit1.")
"""Prefixes of keys in official files that no forward pass reads; the demo file leaves them out."""


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Dimensions, in the words of the server's table of variants."""

    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 3
    features: int = 48
    out_channels: tuple[int, int, int, int] = (24, 48, 96, 128)
    layers: tuple[int, int, int, int] = (2, 5, 8, 11)


VITT14: Final = NetworkSpec()
"""The bundled variant: 6.4 M parameters, 12.9 MB in fp16."""


@lru_cache(maxsize=64)
def _resize_weights(size: int, target: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Linear resize with aligned corners as a matrix, (size, target)."""
    identity = torch.eye(size, device=device)[None]
    return F.interpolate(identity, size=target, mode="linear", align_corners=True)[0].to(dtype)


class BilinearResize(torch.autograd.Function):
    """`F.interpolate` with aligned corners whose gradient is two matrix products.

    The gradient in torch scatters with atomic additions, slowly in bf16 and in an order that changes between runs.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize (B, C, h, w) to (B, C, *size)."""
        ctx.sizes = (*hidden.shape[-2:], *size)  # type: ignore[attr-defined]  # the place torch gives for this
        return F.interpolate(hidden, size=size, mode="bilinear", align_corners=True)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        """Apply the transposed matrices to rows, then to columns, channels last."""
        (gradient,) = gradients
        height, width, rows, columns = ctx.sizes  # type: ignore[attr-defined]  # set in forward
        batch, channels = gradient.shape[:2]
        by_row = _resize_weights(height, rows, gradient.device, gradient.dtype)
        by_column = _resize_weights(width, columns, gradient.device, gradient.dtype)
        hidden = gradient.permute(0, 2, 3, 1).reshape(batch, rows, columns * channels)
        hidden = (by_row @ hidden).view(batch * height, columns, channels)
        hidden = (by_column @ hidden).view(batch, height, width, channels)
        return hidden.permute(0, 3, 1, 2), None


def resize(hidden: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly with aligned corners to (B, C, *size)."""
    resized: Tensor = BilinearResize.apply(hidden, size)
    return resized


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, around a skip connection; keeps (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the residual to `hidden`."""
        residual: Tensor = self.conv2(F.relu(self.conv1(F.relu(hidden))))
        return residual + hidden


class FeatureFusionBlock(nn.Module):
    """Merges a coarser map into a finer one and resizes the result to the next level."""

    def __init__(self, channels: int, *, has_coarser: bool) -> None:
        super().__init__()
        if has_coarser:
            self.resConfUnit1 = ResidualConvUnit(channels)
        self.resConfUnit2 = ResidualConvUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, lateral: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Fuse (B, C, h, w) maps and resize to `size`."""
        hidden = lateral if coarser is None else coarser + self.resConfUnit1(lateral)
        # The 1x1 convolution commutes with the bilinear resize; before it there is a quarter of the work.
        hidden = self.out_conv(self.resConfUnit2(hidden))
        return resize(hidden, size)


class Scratch(nn.Module):
    """Adapters, fusion stages and last convolutions."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        features = spec.features
        for level, channels in enumerate(spec.out_channels, start=1):
            self.add_module(f"layer{level}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{level}", FeatureFusionBlock(features, has_coarser=level < 4))
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, HIDDEN_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(HIDDEN_CHANNELS, 1, 1),
            nn.ReLU(),
        )


class DPTHead(nn.Module):
    """Reassemble, fuse from coarse to fine, estimate inverse depth."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        channels = spec.out_channels
        self.projects = nn.ModuleList(nn.Conv2d(spec.embed_dim, out, 1) for out in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(spec)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map four (B, D, h, w) maps, shallowest block first, to (B, 14 * h, 14 * w)."""
        rows, columns = features[0].shape[-2:]
        scratch = self.scratch
        levels = [
            scratch.get_submodule(f"layer{level}_rn")(reassemble(project(feature)))
            for level, (feature, project, reassemble) in enumerate(
                zip(features, self.projects, self.resize_layers, strict=True), start=1
            )
        ]
        fused: Tensor | None = None
        for index in (3, 2, 1, 0):
            height, width = levels[index].shape[-2:]
            size = (2 * height, 2 * width) if index == 0 else (levels[index - 1].shape[-2], levels[index - 1].shape[-1])
            fused = scratch.get_submodule(f"refinenet{index + 1}")(levels[index], fused, size)
        hidden = scratch.output_conv1(fused)
        full = (rows * PATCH_SIZE, columns * PATCH_SIZE)
        hidden = resize(hidden, full)
        hidden = F.relu(scratch.output_conv2[0](hidden))
        last = cast("nn.Conv2d", scratch.output_conv2[2])
        # A 1x1 convolution to one channel, in fp32 also under autocast: 8 bits of mantissa show as steps on planes.
        depth = (hidden.float() * last.weight.float().reshape(1, -1, 1, 1)).sum(1) + cast("Tensor", last.bias).float()
        return F.relu(depth)


def resample_pos_embed(pos_embed: Tensor, rows: int, columns: int) -> Tensor:
    """Resample a (1, 1 + 37 * 37, D) position embedding by upstream's formula to (1, 1 + rows * columns, D)."""
    if rows == columns == POS_EMBED_GRID:
        return pos_embed
    grid = pos_embed[:, 1:].reshape(1, POS_EMBED_GRID, POS_EMBED_GRID, -1).permute(0, 3, 1, 2)
    # The factor, not the size, enters the sample positions.
    factor = ((rows + INTERPOLATE_OFFSET) / POS_EMBED_GRID, (columns + INTERPOLATE_OFFSET) / POS_EMBED_GRID)
    grid = F.interpolate(grid, scale_factor=factor, mode="bicubic", antialias=False)
    return torch.cat([pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class DepthAnythingTiny(nn.Module):
    """Relative inverse depth from normalised pixels."""

    def __init__(self, spec: NetworkSpec = VITT14) -> None:
        super().__init__()
        self.spec = spec
        self.pretrained = VisionTransformer(
            img_size=POS_EMBED_GRID * PATCH_SIZE,
            patch_size=PATCH_SIZE,
            embed_dim=spec.embed_dim,
            depth=spec.depth,
            num_heads=spec.num_heads,
            init_values=1.0,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        self.depth_head = DPTHead(spec)
        last = cast("nn.Conv2d", self.depth_head.scratch.output_conv2[2])
        # The output starts above zero, so that the last ReLU passes gradients.
        nn.init.constant_(cast("Tensor", last.bias), OUTPUT_BIAS)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map (B, 3, H, W), normalised RGB with sides that are multiples of 14, to (B, H, W), near is large."""
        vit = self.pretrained
        patches = vit.patch_embed.proj(pixel_values)
        batch, _, rows, columns = patches.shape
        tokens = torch.cat(
            [cast("Tensor", vit.cls_token).expand(batch, -1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        )
        tokens = tokens + resample_pos_embed(cast("Tensor", vit.pos_embed), rows, columns)
        features: list[Tensor] = []
        for index, block in enumerate(vit.blocks):
            tokens = block(tokens)
            if index in self.spec.layers:
                features.append(vit.norm(tokens)[:, 1:].transpose(1, 2).reshape(batch, -1, rows, columns))
        depth: Tensor = self.depth_head(features)
        return depth


@lru_cache(maxsize=8)
def _pixel_constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation on a device: copying them for every batch would wait for the device."""
    mean, deviation = (torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_DEVIATION))
    return mean, deviation


def normalise(rgb: Tensor) -> Tensor:
    """Normalise (B, 3, H, W) RGB in [0, 1] by ImageNet's mean and deviation."""
    mean, deviation = _pixel_constants(rgb.device)
    return (rgb - mean) / deviation


def exported(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn a state dict into what the file holds: fp16, contiguous, on the CPU."""
    return {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in state.items()}
