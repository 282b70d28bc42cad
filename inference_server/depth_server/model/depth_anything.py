"""Depth Anything: DINOv2 backbone and DPT head.

Yang et al., arXiv 2401.10891 and 2406.09414; Lin et al., arXiv 2511.10647 for the third generation, of which the
single-image models are served.
"""

import torch
from torch import Tensor, nn

from depth_server.model.backbone import DinoV2Backbone
from depth_server.model.dpt import DPTHead
from depth_server.model.sky import MIN_SKY_PIXELS, SKY_QUANTILE
from depth_server.model.variants import SKY_THRESHOLD, ModelSpec


class DepthAnything(nn.Module):
    """Depth from normalised pixels; what a value means is `spec.kind`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = DinoV2Backbone(spec.dimensions, spec.layers, spec.traits.final_norm_eps)
        self.head = DPTHead(spec.dimensions, spec.traits)

    def cast(self, dtype: torch.dtype) -> None:
        """Compute in `dtype`, except for the last upsampling and convolutions, which stay in fp32."""
        self.backbone.cast(dtype)
        self.head.to(dtype)
        self.head.estimation.keep_output_in_fp32()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Predict depth.

        Args:
            pixel_values: (B, 3, H, W), RGB normalised by ImageNet's mean and deviation; H and W multiples of 14.

        Returns:
            (B, H, W) in fp32, non-negative.
        """
        maps = self.forward_maps(pixel_values)
        return maps[0] if len(maps) == 1 else fill_sky(maps[0], maps[1])

    def forward_maps(self, pixel_values: Tensor, positions: Tensor | None = None) -> tuple[Tensor, ...]:
        """Run the network without the steps that depend on its values, so that it can be exported.

        Args:
            pixel_values: (B, 3, H, W), as for `forward`.
            positions: See `DinoV2Backbone.forward`.

        Returns:
            Depth and, if the family has a head for it, sky, each (B, H, W).
        """
        maps: tuple[Tensor, ...] = self.head(self.backbone(pixel_values, positions))
        return maps


def fill_sky(depth: Tensor, sky: Tensor) -> Tensor:
    """Put the sky of every image of a batch at its farthest depth; `sky.fill_sky` for tensors.

    Args:
        depth: (B, H, W).
        sky: (B, H, W).
    """
    filled = depth.clone()
    for image, sky_map in zip(filled, sky, strict=True):
        is_sky = sky_map >= SKY_THRESHOLD
        sky_pixels = int(is_sky.sum())
        if min(sky_pixels, is_sky.numel() - sky_pixels) > MIN_SKY_PIXELS:
            image[is_sky] = torch.quantile(image[~is_sky], SKY_QUANTILE)
    return filled
