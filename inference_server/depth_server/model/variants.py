"""The published Depth Anything models as data.

Sources: DepthAnything/Depth-Anything-V2 `depth_anything_v2/dpt.py` (`intermediate_layer_idx`) and `README.md`;
LiheYoung/Depth-Anything `depth_anything/dpt.py` (`get_intermediate_layers(x, 4)`, the last four blocks) and `run.py`.

Files of both families carry the same keys with the same shapes, so the family cannot be told from a file: it is
declared by the user.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ModelFamily(StrEnum):
    """Training generation; decides which block outputs feed the head and how depth is resized to the source."""

    DEPTH_ANYTHING = "DepthAnything"
    DEPTH_ANYTHING_V2 = "DepthAnythingV2"


class ModelVariant(StrEnum):
    """Size of the DINOv2 backbone; the patch is 14 pixels in each."""

    VITT14 = "ViTT14"
    """Of this project, not published upstream: for demonstrations with the weights that come with the package."""
    VITS14 = "ViTS14"
    VITB14 = "ViTB14"
    VITL14 = "ViTL14"


class DepthKind(StrEnum):
    """What a value of the output means."""

    RELATIVE_INVERSE = "relative_inverse"
    """Affine-invariant inverse depth: near is large; scale and shift are unknown; no unit."""


PATCH_SIZE: Final = 14
"""Side of one ViT patch in pixels; both sides of the network's input are multiples of it."""

POS_EMBED_GRID: Final = 37
"""Side of the stored position grid in patches: the backbone was trained at 518 = 37 * 14 pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSpec:
    """Dimensions of one variant.

    Attributes:
        timm_name: Backbone in timm's registry that has the structure; the dimensions here override its own.
        embed_dim: Width of a token.
        depth: Number of transformer blocks.
        num_heads: Attention heads per block.
        features: Channels inside the DPT fusion stages.
        out_channels: Channels of the four reassembled feature maps, finest first.
        letter: The variant in model names (`t`, `s`, `b`, `l`).
    """

    timm_name: str
    embed_dim: int
    depth: int
    num_heads: int
    features: int
    out_channels: tuple[int, int, int, int]
    letter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One family and variant together: everything needed to build and describe the model.

    Attributes:
        family: Declared family.
        variant: Declared variant.
        dimensions: Dimensions of the variant.
        layers: Indices (from 0) of the blocks whose normalised outputs feed the head.
        name: Name in responses, metrics and status.
        kind: Meaning of the output.
        align_corners: How depth is resized bilinearly to the source size; upstream differs between the families.
        weights_license: SPDX identifier of the licence of the official weights.
    """

    family: ModelFamily
    variant: ModelVariant
    dimensions: VariantSpec
    layers: tuple[int, int, int, int]
    name: str
    kind: DepthKind
    align_corners: bool
    weights_license: str


VARIANTS: Final[dict[ModelVariant, VariantSpec]] = {
    ModelVariant.VITT14: VariantSpec(
        timm_name="vit_small_patch14_dinov2",
        embed_dim=192,
        depth=12,
        num_heads=3,
        features=48,
        out_channels=(24, 48, 96, 128),
        letter="t",
    ),
    ModelVariant.VITS14: VariantSpec(
        timm_name="vit_small_patch14_dinov2",
        embed_dim=384,
        depth=12,
        num_heads=6,
        features=64,
        out_channels=(48, 96, 192, 384),
        letter="s",
    ),
    ModelVariant.VITB14: VariantSpec(
        timm_name="vit_base_patch14_dinov2",
        embed_dim=768,
        depth=12,
        num_heads=12,
        features=128,
        out_channels=(96, 192, 384, 768),
        letter="b",
    ),
    ModelVariant.VITL14: VariantSpec(
        timm_name="vit_large_patch14_dinov2",
        embed_dim=1024,
        depth=24,
        num_heads=16,
        features=256,
        out_channels=(256, 512, 1024, 1024),
        letter="l",
    ),
}
"""Dimensions by variant."""

LAYERS: Final[dict[ModelFamily, dict[ModelVariant, tuple[int, int, int, int]]]] = {
    ModelFamily.DEPTH_ANYTHING: {
        ModelVariant.VITS14: (8, 9, 10, 11),
        ModelVariant.VITB14: (8, 9, 10, 11),
        ModelVariant.VITL14: (20, 21, 22, 23),
    },
    ModelFamily.DEPTH_ANYTHING_V2: {
        ModelVariant.VITT14: (2, 5, 8, 11),
        ModelVariant.VITS14: (2, 5, 8, 11),
        ModelVariant.VITB14: (2, 5, 8, 11),
        ModelVariant.VITL14: (4, 11, 17, 23),
    },
}
"""Block outputs that feed the head. Upstream calls the first family's choice unintended (V1 issue 81)."""

MODEL_NAME_PREFIXES: Final[dict[ModelFamily, str]] = {
    ModelFamily.DEPTH_ANYTHING: "depth_anything",
    ModelFamily.DEPTH_ANYTHING_V2: "depth_anything_v2",
}
"""First part of a model's name, as in the names of the official files."""

ALIGN_CORNERS: Final[dict[ModelFamily, bool]] = {
    ModelFamily.DEPTH_ANYTHING: False,
    ModelFamily.DEPTH_ANYTHING_V2: True,
}
"""Resize of depth to the source size: V1 `run.py` uses False, V2 `infer_image` True."""

WEIGHTS_LICENSES: Final[dict[ModelFamily, dict[ModelVariant, str]]] = {
    ModelFamily.DEPTH_ANYTHING: {
        ModelVariant.VITS14: "Apache-2.0",
        ModelVariant.VITB14: "Apache-2.0",
        ModelVariant.VITL14: "Apache-2.0",
    },
    ModelFamily.DEPTH_ANYTHING_V2: {
        ModelVariant.VITT14: "Apache-2.0",
        ModelVariant.VITS14: "Apache-2.0",
        ModelVariant.VITB14: "CC-BY-NC-4.0",
        ModelVariant.VITL14: "CC-BY-NC-4.0",
    },
}
"""Licences of the official weights, by the READMEs of both repositories; ViTT14's are this project's own."""


def model_spec(family: ModelFamily, variant: ModelVariant) -> ModelSpec:
    """Combine a family and a variant into the description of one model.

    Raises:
        ValueError: The family has no such variant.
    """
    if variant not in LAYERS[family]:
        known = ", ".join(LAYERS[family])
        message = f"{family} has no variant {variant}; it has {known}"
        raise ValueError(message)
    dimensions = VARIANTS[variant]
    return ModelSpec(
        family=family,
        variant=variant,
        dimensions=dimensions,
        layers=LAYERS[family][variant],
        name=f"{MODEL_NAME_PREFIXES[family]}_vit{dimensions.letter}14",
        kind=DepthKind.RELATIVE_INVERSE,
        align_corners=ALIGN_CORNERS[family],
        weights_license=WEIGHTS_LICENSES[family][variant],
    )
