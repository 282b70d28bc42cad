"""Depth Anything transcribed from the upstream formulas, as an independent judge of `depth_server.model`.

Plain tensor functions over the flat official state dict. Nothing here comes from `depth_server` or timm, and where the
server rewrites a formula (1x1 convolution before the upsampling, fused attention), this file keeps upstream's order.

Sources: DepthAnything/Depth-Anything-V2 `depth_anything_v2/dpt.py`, `util/blocks.py`, `dinov2.py`,
`dinov2_layers/{attention,block,mlp,layer_scale}.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 torch's own convention
from torch import Tensor

State = Mapping[str, Tensor]

PATCH = 14
GRID = 37
EPS = 1e-6


@dataclass(frozen=True)
class ReferenceDims:
    depth: int
    heads: int


DIMS = {
    "ViTT14": ReferenceDims(depth=12, heads=3),
    "ViTS14": ReferenceDims(depth=12, heads=6),
    "ViTB14": ReferenceDims(depth=12, heads=12),
    "ViTL14": ReferenceDims(depth=24, heads=16),
}

LAYERS = {
    ("DepthAnything", "ViTS14"): (8, 9, 10, 11),
    ("DepthAnything", "ViTB14"): (8, 9, 10, 11),
    ("DepthAnything", "ViTL14"): (20, 21, 22, 23),
    ("DepthAnythingV2", "ViTT14"): (2, 5, 8, 11),
    ("DepthAnythingV2", "ViTS14"): (2, 5, 8, 11),
    ("DepthAnythingV2", "ViTB14"): (2, 5, 8, 11),
    ("DepthAnythingV2", "ViTL14"): (4, 11, 17, 23),
}


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + EPS) * state[name + ".weight"] + state[name + ".bias"]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[name + ".weight"].T + state[name + ".bias"]


def attention(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    size = width // heads
    qkv = linear(state, name + ".qkv", x).reshape(batch, length, 3, heads, size).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0] * size**-0.5, qkv[1], qkv[2]
    weights = torch.softmax(q @ k.transpose(-2, -1), dim=-1)
    return linear(state, name + ".proj", (weights @ v).transpose(1, 2).reshape(batch, length, width))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def block(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    x = x + state[name + ".ls1.gamma"] * attention(state, name + ".attn", layer_norm(state, name + ".norm1", x), heads)
    hidden = gelu(linear(state, name + ".mlp.fc1", layer_norm(state, name + ".norm2", x)))
    return x + state[name + ".ls2.gamma"] * linear(state, name + ".mlp.fc2", hidden)


def position_embedding(pos_embed: Tensor, h: int, w: int) -> Tensor:
    stored = pos_embed.shape[1] - 1
    if stored == h * w and h == w:
        return pos_embed
    side = math.sqrt(stored)
    scale = ((h + 0.1) / side, (w + 0.1) / side)
    grid = pos_embed[:, 1:].reshape(1, int(side), int(side), -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=False)
    assert grid.shape[-2:] == (h, w)
    return torch.cat([pos_embed[:, :1], grid.permute(0, 2, 3, 1).reshape(1, h * w, -1)], dim=1)


def backbone(state: State, dims: ReferenceDims, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
    """Return the normalised patch tokens, (B, h * w, D), of every layer."""
    height, width = pixels.shape[-2:]
    weight, bias = state["pretrained.patch_embed.proj.weight"], state["pretrained.patch_embed.proj.bias"]
    x = F.conv2d(pixels, weight, bias, stride=PATCH).flatten(2).transpose(1, 2)
    x = torch.cat([state["pretrained.cls_token"].expand(x.shape[0], -1, -1), x], dim=1)
    x = x + position_embedding(state["pretrained.pos_embed"], height // PATCH, width // PATCH)
    outputs = []
    for index in range(dims.depth):
        x = block(state, f"pretrained.blocks.{index}", x, dims.heads)
        if index in layers:
            outputs.append(layer_norm(state, "pretrained.norm", x)[:, 1:])
    return outputs


def conv(state: State, name: str, x: Tensor, *, padding: int = 0, stride: int = 1) -> Tensor:
    return F.conv2d(x, state[name + ".weight"], state.get(name + ".bias"), stride=stride, padding=padding)


def residual_conv_unit(state: State, name: str, x: Tensor) -> Tensor:
    out = conv(state, name + ".conv1", F.relu(x), padding=1)
    out = conv(state, name + ".conv2", F.relu(out), padding=1)
    return out + x


def feature_fusion_block(
    state: State, name: str, *inputs: Tensor, size: tuple[int, int] | None, scale: int | None
) -> Tensor:
    output = inputs[0]
    if len(inputs) == 2:
        output = output + residual_conv_unit(state, name + ".resConfUnit1", inputs[1])
    output = residual_conv_unit(state, name + ".resConfUnit2", output)
    output = F.interpolate(output, size=size, scale_factor=scale, mode="bilinear", align_corners=True)
    return conv(state, name + ".out_conv", output)


def head(state: State, features: Sequence[Tensor], h: int, w: int) -> Tensor:
    maps = []
    for index, tokens in enumerate(features):
        x = tokens.permute(0, 2, 1).reshape(tokens.shape[0], -1, h, w)
        x = conv(state, f"depth_head.projects.{index}", x)
        name = f"depth_head.resize_layers.{index}"
        if index in (0, 1):
            x = F.conv_transpose2d(x, state[name + ".weight"], state[name + ".bias"], stride=4 if index == 0 else 2)
        elif index == 3:
            x = conv(state, name, x, stride=2, padding=1)
        maps.append(conv(state, f"depth_head.scratch.layer{index + 1}_rn", x, padding=1))
    scratch = "depth_head.scratch."
    size = [tuple(x.shape[2:]) for x in maps]
    path4 = feature_fusion_block(state, scratch + "refinenet4", maps[3], size=size[2], scale=None)
    path3 = feature_fusion_block(state, scratch + "refinenet3", path4, maps[2], size=size[1], scale=None)
    path2 = feature_fusion_block(state, scratch + "refinenet2", path3, maps[1], size=size[0], scale=None)
    path1 = feature_fusion_block(state, scratch + "refinenet1", path2, maps[0], size=None, scale=2)
    out = conv(state, scratch + "output_conv1", path1, padding=1)
    out = F.interpolate(out, (h * PATCH, w * PATCH), mode="bilinear", align_corners=True)
    out = F.relu(conv(state, scratch + "output_conv2.0", out, padding=1))
    return F.relu(conv(state, scratch + "output_conv2.2", out)).squeeze(1)


def reference_depth(state: State, family: str, variant: str, pixels: Tensor) -> Tensor:
    """Depth, (B, H, W), of normalised pixels, (B, 3, H, W)."""
    features = backbone(state, DIMS[variant], pixels, LAYERS[family, variant])
    return head(state, features, pixels.shape[2] // PATCH, pixels.shape[3] // PATCH)


def max_relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value: max|a - b| / max|b|."""
    return float((actual - expected).abs().max() / expected.abs().max())
