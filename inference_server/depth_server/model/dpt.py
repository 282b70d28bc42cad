"""DPT head: Ranftl et al., "Vision Transformers for Dense Prediction" (arXiv 2103.13413), as Depth Anything uses it
(`depth_anything_v2/dpt.py`, `depth_anything_v2/util/blocks.py`).

Names are those of transformers' `DepthAnythingForDepthEstimation`; `layout.module_key` maps the official keys.
"""  # noqa: D205 a title with its reference does not fit into one line

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 torch's own convention
from torch import Tensor, nn

from depth_server.model.layout import HEAD_HIDDEN_CHANNELS
from depth_server.model.variants import PATCH_SIZE, FamilySpec, OutputActivation, VariantSpec


class ReassembleLayer(nn.Module):
    """Projects one feature map to its channels and moves it to its level of the pyramid."""

    def __init__(self, embed_dim: int, channels: int, resize: nn.Module) -> None:
        super().__init__()
        self.projection = nn.Conv2d(embed_dim, channels, kernel_size=1)
        self.resize = resize

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, D, h, w) to (B, channels, h * s, w * s) with s of 4, 2, 1 or 1/2."""
        resized: Tensor = self.resize(self.projection(features))
        return resized


def reassemble_layers(spec: VariantSpec) -> nn.ModuleList:
    """Build the four reassemble layers, finest first: 4x, 2x, 1x and 1/2 of the patch grid."""
    channels = spec.out_channels
    resizes: tuple[nn.Module, ...] = (
        nn.ConvTranspose2d(channels[0], channels[0], kernel_size=4, stride=4),
        nn.ConvTranspose2d(channels[1], channels[1], kernel_size=2, stride=2),
        nn.Identity(),
        nn.Conv2d(channels[3], channels[3], kernel_size=3, stride=2, padding=1),
    )
    return nn.ModuleList(
        ReassembleLayer(spec.embed_dim, out, resize) for out, resize in zip(channels, resizes, strict=True)
    )


class PreActResidualUnit(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, around a skip connection; keeps (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Add the residual to `hidden`."""
        # The skip carries the value before the ReLU, so the activation must not work in place.
        residual: Tensor = self.conv2(F.relu(self.conv1(F.relu(hidden))))
        return residual + hidden


class FeatureFusionLayer(nn.Module):
    """Merges a coarser map into a finer one and resizes the result to the next level.

    Args:
        channels: Channels of both maps.
        has_coarser: Whether a coarser map comes in. The coarsest stage has none, so it needs no lateral unit.
    """

    def __init__(self, channels: int, *, has_coarser: bool) -> None:
        super().__init__()
        self.lateral_unit = PreActResidualUnit(channels) if has_coarser else None
        self.output_unit = PreActResidualUnit(channels)
        self.projection = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, lateral: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Fuse and resize.

        Args:
            lateral: (B, C, h, w), the map of this level.
            coarser: (B, C, h, w), the output of the coarser stage, already at this level's size, or None.
            size: Height and width of the output.

        Returns:
            (B, C, *size).
        """
        hidden = lateral
        if self.lateral_unit is not None and coarser is not None:
            hidden = coarser + self.lateral_unit(lateral)
        hidden = self.output_unit(hidden)
        # Upstream resizes first. A 1x1 convolution and bilinear weights, which sum to one, commute; this order does a
        # quarter of the work.
        hidden = self.projection(hidden)
        return F.interpolate(hidden, size=size, mode="bilinear", align_corners=True)


class OutputConvolutions(nn.Module):
    """Two convolutions to one channel, (B, C, H, W) to (B, 1, H, W), before the activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, HEAD_HIDDEN_CHANNELS, kernel_size=3, padding=1)
        self.output = nn.Conv2d(HEAD_HIDDEN_CHANNELS, 1, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Compute one value per pixel."""
        value: Tensor = self.output(F.relu(self.hidden(features)))
        return value


class DepthEstimationHead(nn.Module):
    """Last convolutions: features at half the resolution to depth and, where the family has it, sky."""

    def __init__(self, features: int, traits: FamilySpec) -> None:
        super().__init__()
        self.activation = traits.activation
        self.max_depth = traits.max_depth
        self.conv1 = nn.Conv2d(features, features // 2, kernel_size=3, padding=1)
        self.depth = OutputConvolutions(features // 2)
        self.sky = OutputConvolutions(features // 2) if traits.layout.has_sky_head else None

    def keep_output_in_fp32(self) -> None:
        """Hold the last two convolutions in fp32: 8 or 11 bits of mantissa show as steps on smooth surfaces."""
        self.depth.float()
        if self.sky is not None:
            self.sky.float()

    def forward(self, hidden: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Map (B, C, h, w) to depth and, if there is a head for it, sky, each (B, *size).

        Both come in the type of the last convolutions. Sky is non-negative; see `SKY_THRESHOLD`.
        """
        hidden = self.conv1(hidden).to(self.depth.hidden.weight.dtype)
        hidden = F.interpolate(hidden, size=size, mode="bilinear", align_corners=True)
        depth = activate(self.depth(hidden), self.activation, self.max_depth).squeeze(1)
        return (depth,) if self.sky is None else (depth, F.relu(self.sky(hidden)).squeeze(1))


def activate(value: Tensor, activation: OutputActivation, max_depth: float) -> Tensor:
    """Turn the last convolution's output into depth; none of the three gives a negative value."""
    if activation is OutputActivation.SIGMOID:
        return torch.sigmoid(value) * max_depth
    return torch.exp(value) if activation is OutputActivation.EXP else F.relu(value)


class DPTHead(nn.Module):
    """Reassemble, fuse from coarse to fine, estimate depth."""

    def __init__(self, spec: VariantSpec, traits: FamilySpec) -> None:
        super().__init__()
        self.reassemble = reassemble_layers(spec)
        self.adapters = nn.ModuleDict(
            {
                f"layer{level}": nn.Conv2d(channels, spec.features, kernel_size=3, padding=1, bias=False)
                for level, channels in enumerate(spec.out_channels, start=1)
            }
        )
        self.fusion = nn.ModuleDict(
            {f"layer{level}": FeatureFusionLayer(spec.features, has_coarser=level < 4) for level in range(1, 5)}
        )
        self.estimation = DepthEstimationHead(spec.features, traits)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compute depth from the backbone's feature maps.

        Args:
            features: Four (B, D, h, w) maps, shallowest block first.

        Returns:
            Depth and, if the family has a head for it, sky, each (B, 14 * h, 14 * w).
        """
        rows, columns = features[0].shape[-2:]
        levels = [
            adapter(reassemble(feature))
            for adapter, reassemble, feature in zip(self.adapters.values(), self.reassemble, features, strict=True)
        ]
        fused: Tensor | None = None
        for index in (3, 2, 1, 0):
            finer = levels[index - 1] if index > 0 else None
            height, width = levels[index].shape[-2:]
            size = (2 * height, 2 * width) if finer is None else (finer.shape[-2], finer.shape[-1])
            fused = self.fusion[f"layer{index + 1}"](levels[index], fused, size)
        maps: tuple[Tensor, ...] = self.estimation(fused, (rows * PATCH_SIZE, columns * PATCH_SIZE))
        return maps
