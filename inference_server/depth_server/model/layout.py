"""Key layout of the official checkpoints, as data, and its mapping to this package's modules.

Sources: state dict of `DepthAnythingV2` (`depth_anything_v2/dpt.py`), which equals that of the first family: a flat
mapping, 239 keys for ViT-S and ViT-B, 407 for ViT-L. Depth Anything 3: `model/dpt.py` and
`model/dinov2/vision_transformer.py` under the names that `api.py` gives them: 406 keys.
"""

import re
from typing import Final

from depth_server.model.variants import (
    FAMILIES,
    PATCH_SIZE,
    POS_EMBED_GRID,
    VARIANTS,
    ModelFamily,
    ModelVariant,
    VariantSpec,
)

Shape = tuple[int, ...]

UNUSED_KEYS: Final = re.compile(
    r"(model\.backbone\.)?pretrained\.mask_token|(depth_head|model\.head)\.scratch\.refinenet4\.resConfUnit1\..*"
)
"""Keys no forward pass reads: the token of masked pre-training, and the residual unit for the second input of the
coarsest fusion stage, which has one input only. A file may carry or lack them."""

HEAD_HIDDEN_CHANNELS: Final = 32
"""Channels between the last two convolutions of the head, equal in all variants."""

_HEAD_RENAMES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"projects\.(\d)\."), r"reassemble.\1.projection."),
    (re.compile(r"resize_layers\.(\d)\."), r"reassemble.\1.resize."),
    (re.compile(r"scratch\.layer(\d)_rn\."), r"adapters.layer\1."),
    (re.compile(r"scratch\.refinenet(\d)\.out_conv\."), r"fusion.layer\1.projection."),
    (re.compile(r"scratch\.refinenet(\d)\.resConfUnit1\.conv(\d)\."), r"fusion.layer\1.lateral_unit.conv\2."),
    (re.compile(r"scratch\.refinenet(\d)\.resConfUnit2\.conv(\d)\."), r"fusion.layer\1.output_unit.conv\2."),
    (re.compile(r"scratch\.output_conv1\."), "estimation.conv1."),
    (re.compile(r"scratch\.output_conv2\.0\."), "estimation.depth.hidden."),
    (re.compile(r"scratch\.output_conv2\.2\."), "estimation.depth.output."),
    (re.compile(r"scratch\.sky_output_conv2\.0\."), "estimation.sky.hidden."),
    (re.compile(r"scratch\.sky_output_conv2\.2\."), "estimation.sky.output."),
)
"""Official names of the head's parts and ours."""

_PREFIXES: Final = tuple(
    dict.fromkeys(
        (prefix, ours)
        for traits in FAMILIES.values()
        for prefix, ours in (
            (traits.layout.backbone_prefix, "backbone.vit."),
            (traits.layout.head_prefix, "head."),
        )
    )
)
"""Prefixes of all families and ours."""


def module_key(official_key: str) -> str:
    """Translate an official key into the name of the parameter in `DepthAnything`.

    Args:
        official_key: A key of `official_layout`, of any family.

    Returns:
        For example `head.fusion.layer1.projection.weight` for `depth_head.scratch.refinenet1.out_conv.weight`.

    Raises:
        KeyError: The key is not part of the official layout.
    """
    for prefix, ours in _PREFIXES:
        if not official_key.startswith(prefix):
            continue
        rest = official_key.removeprefix(prefix)
        if ours != "head.":
            return ours + rest
        for pattern, replacement in _HEAD_RENAMES:
            renamed, count = pattern.subn(replacement, rest)
            if count:
                return ours + renamed
    raise KeyError(official_key)


def official_layout(variant: ModelVariant, family: ModelFamily = ModelFamily.DEPTH_ANYTHING_V2) -> dict[str, Shape]:
    """List every key of an official file with its shape.

    Args:
        variant: Size of the backbone.
        family: Its file; those of the first two generations are laid out alike.

    Returns:
        Unused keys included where the official file has them.
    """
    spec, layout = VARIANTS[variant], FAMILIES[family].layout
    return {
        key: shape
        for key, shape in {
            **{layout.backbone_prefix + key: shape for key, shape in _backbone_layout(spec).items()},
            **{
                layout.head_prefix + key: shape
                for key, shape in _head_layout(spec, has_sky_head=layout.has_sky_head).items()
            },
        }.items()
        if layout.has_unused or not UNUSED_KEYS.fullmatch(key)
    }


def _backbone_layout(spec: VariantSpec) -> dict[str, Shape]:
    width = spec.embed_dim
    layout: dict[str, Shape] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + POS_EMBED_GRID**2, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, PATCH_SIZE, PATCH_SIZE),
        "patch_embed.proj.bias": (width,),
    }
    for index in range(spec.depth):
        block = f"blocks.{index}."
        for name, shape in {
            **_affine("norm1", (width,), width),
            **_affine("attn.qkv", (3 * width, width), 3 * width),
            **_affine("attn.proj", (width, width), width),
            "ls1.gamma": (width,),
            **_affine("norm2", (width,), width),
            **_affine("mlp.fc1", (4 * width, width), 4 * width),
            **_affine("mlp.fc2", (width, 4 * width), width),
            "ls2.gamma": (width,),
        }.items():
            layout[block + name] = shape
    return {**layout, **_affine("norm", (width,), width)}


def _head_layout(spec: VariantSpec, *, has_sky_head: bool) -> dict[str, Shape]:
    channels, features = spec.out_channels, spec.features
    layout: dict[str, Shape] = {}
    for index, out in enumerate(channels):
        layout |= _affine(f"projects.{index}", (out, spec.embed_dim, 1, 1), out)
    # The kernels of the transposed convolutions equal their strides, 4 and 2; index 2 is the identity.
    layout |= _affine("resize_layers.0", (channels[0], channels[0], 4, 4), channels[0])
    layout |= _affine("resize_layers.1", (channels[1], channels[1], 2, 2), channels[1])
    layout |= _affine("resize_layers.3", (channels[3], channels[3], 3, 3), channels[3])
    for index, out in enumerate(channels, start=1):
        layout[f"scratch.layer{index}_rn.weight"] = (features, out, 3, 3)
    for index in range(1, 5):
        stage = f"scratch.refinenet{index}."
        layout |= _affine(stage + "out_conv", (features, features, 1, 1), features)
        for unit in ("resConfUnit1", "resConfUnit2"):
            for conv in ("conv1", "conv2"):
                layout |= _affine(f"{stage}{unit}.{conv}", (features, features, 3, 3), features)
    layout |= _affine("scratch.output_conv1", (features // 2, features, 3, 3), features // 2)
    for name in ("output_conv2", "sky_output_conv2") if has_sky_head else ("output_conv2",):
        layout |= _affine(f"scratch.{name}.0", (HEAD_HIDDEN_CHANNELS, features // 2, 3, 3), HEAD_HIDDEN_CHANNELS)
        layout |= _affine(f"scratch.{name}.2", (1, HEAD_HIDDEN_CHANNELS, 1, 1), 1)
    return layout


def _affine(name: str, weight: Shape, bias: int) -> dict[str, Shape]:
    return {f"{name}.weight": weight, f"{name}.bias": (bias,)}
