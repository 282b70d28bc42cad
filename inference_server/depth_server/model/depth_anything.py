"""Depth Anything: DINOv2 backbone and DPT head (Yang et al., arXiv 2401.10891 and 2406.09414)."""

import torch
from torch import Tensor, nn

from depth_server.model.backbone import DinoV2Backbone
from depth_server.model.dpt import DPTHead
from depth_server.model.variants import ModelSpec


class DepthAnything(nn.Module):
    """Relative inverse depth from normalised pixels."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = DinoV2Backbone(spec.dimensions, spec.layers)
        self.head = DPTHead(spec.dimensions)

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
            (B, H, W) in fp32, non-negative, near is large.
        """
        depth: Tensor = self.head(self.backbone(pixel_values))
        return depth
