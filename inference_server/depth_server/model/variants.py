"""The published Depth Anything models as data.

Sources: DepthAnything/Depth-Anything-V2 `depth_anything_v2/dpt.py` (`intermediate_layer_idx`),
`metric_depth/depth_anything_v2/dpt.py` (sigmoid times `max_depth`) and the READMEs beside them;
LiheYoung/Depth-Anything `depth_anything/dpt.py` (`get_intermediate_layers(x, 4)`, the last four blocks) and `run.py`;
ByteDance-Seed/Depth-Anything-3 `configs/da3{mono,metric}-large.yaml`, `model/dpt.py`, `model/da3.py`,
`model/dinov2/vision_transformer.py` and `utils/io/input_processor.py`.

Files of the first two generations carry the same keys with the same shapes, so the family cannot be told from a file:
it is declared by the user.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from depth_server.errors import StartupError, StartupReason


class ModelFamily(StrEnum):
    """Training generation and task; decides everything that is not a dimension of the backbone."""

    DEPTH_ANYTHING = "DepthAnything"
    DEPTH_ANYTHING_V2 = "DepthAnythingV2"
    DEPTH_ANYTHING_V2_METRIC_HYPERSIM = "DepthAnythingV2MetricHypersim"
    DEPTH_ANYTHING_V2_METRIC_VKITTI = "DepthAnythingV2MetricVKITTI"
    DEPTH_ANYTHING_3_MONO = "DepthAnything3Mono"
    DEPTH_ANYTHING_3_METRIC = "DepthAnything3Metric"


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
    RELATIVE_DEPTH = "relative_depth"
    """Depth up to an unknown scale: near is small; no unit."""
    METRIC = "metric"
    """Depth in metres: near is small."""


class OutputActivation(StrEnum):
    """What turns the last convolution's output into depth."""

    RELU = "relu"
    SIGMOID = "sigmoid"
    """Times `max_depth`."""
    EXP = "exp"


class ResizeBound(StrEnum):
    """Which side of the image the input size bounds."""

    LOWER = "lower"
    """The shorter side becomes the input size."""
    UPPER = "upper"
    """The longer side becomes the input size."""


PATCH_SIZE: Final = 14
"""Side of one ViT patch in pixels; both sides of the network's input are multiples of it."""

POS_EMBED_GRID: Final = 37
"""Side of the stored position grid in patches: the backbone was trained at 518 = 37 * 14 pixels."""

SKY_THRESHOLD: Final = 0.3
"""Output of the sky head from which on a pixel is sky (DA3 `_process_mono_sky_estimation`)."""

METRES_UNIT: Final = "m"
"""Unit of metric depth."""


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
class CheckpointLayout:
    """How the official file of a family is laid out.

    Attributes:
        backbone_prefix: Before the backbone's keys.
        head_prefix: Before the DPT head's keys.
        has_unused: Whether it carries the tensors of `layout.UNUSED_KEYS`; a file may still lack or carry them.
        has_sky_head: Whether it carries the second output convolutions, for the sky.
    """

    backbone_prefix: str
    head_prefix: str
    has_unused: bool
    has_sky_head: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilySpec:
    """What distinguishes a family, apart from the dimensions of its backbone.

    Attributes:
        names: Name of the model by variant, in responses, metrics and status; its keys are the variants that there are.
        layers: By variant, indices (from 0) of the blocks whose normalised outputs feed the head.
        layout: Keys of the official file.
        activation: Last step of the head.
        max_depth: Factor after a sigmoid, in metres.
        final_norm_eps: Epsilon of the LayerNorm on the backbone's outputs; that of the blocks is 1e-6 everywhere.
        kind: Meaning of the output as the network gives it.
        focal_divisor: Pixels; where set, the output becomes metric by the focal length: see `focal.metres_per_value`.
        align_corners: How depth is resized bilinearly to the source size.
        resize_bound: Which side the input size bounds upstream.
        input_size: Upstream's input size in pixels.
        licenses: SPDX identifier of the licence of the official weights, by variant.
    """

    names: Mapping[ModelVariant, str]
    layers: Mapping[ModelVariant, tuple[int, int, int, int]]
    layout: CheckpointLayout
    activation: OutputActivation
    max_depth: float = 1.0
    final_norm_eps: float = 1e-6
    kind: DepthKind
    focal_divisor: float | None = None
    align_corners: bool
    resize_bound: ResizeBound = ResizeBound.LOWER
    input_size: int = 518
    licenses: Mapping[ModelVariant, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One family and variant together: everything needed to build and describe the model.

    Attributes:
        family: Declared family.
        variant: Declared variant.
        dimensions: Dimensions of the variant.
        traits: Everything the family decides.
        layers: Indices (from 0) of the blocks whose normalised outputs feed the head.
        name: Name in responses, metrics and status.
        kind: Meaning of the output.
        align_corners: How depth is resized bilinearly to the source size; upstream differs between the families.
        weights_license: SPDX identifier of the licence of the official weights.
    """

    family: ModelFamily
    variant: ModelVariant
    dimensions: VariantSpec
    traits: FamilySpec
    layers: tuple[int, int, int, int]
    name: str
    kind: DepthKind
    align_corners: bool
    weights_license: str

    @property
    def unit(self) -> str | None:
        """Unit of the output as the network gives it; None where there is none."""
        return METRES_UNIT if self.kind is DepthKind.METRIC else None


VARIANTS: Final[Mapping[ModelVariant, VariantSpec]] = MappingProxyType(
    {
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
)
"""Dimensions by variant."""

_OFFICIAL: Final = (ModelVariant.VITS14, ModelVariant.VITB14, ModelVariant.VITL14)
"""Variants that upstream published."""

_LAST_LAYERS: Final = {
    ModelVariant.VITS14: (8, 9, 10, 11),
    ModelVariant.VITB14: (8, 9, 10, 11),
    ModelVariant.VITL14: (20, 21, 22, 23),
}
"""Upstream calls the first family's choice unintended (V1 issue 81)."""

_SPREAD_LAYERS: Final = {
    ModelVariant.VITT14: (2, 5, 8, 11),
    ModelVariant.VITS14: (2, 5, 8, 11),
    ModelVariant.VITB14: (2, 5, 8, 11),
    ModelVariant.VITL14: (4, 11, 17, 23),
}

_FLAT_LAYOUT: Final = CheckpointLayout(
    backbone_prefix="pretrained.", head_prefix="depth_head.", has_unused=True, has_sky_head=False
)

_V3_LAYOUT: Final = CheckpointLayout(
    # The Hub's mixin stores the state dict of the API class, which holds the network as `model`.
    backbone_prefix="model.backbone.pretrained.",
    head_prefix="model.head.",
    has_unused=False,
    has_sky_head=True,
)

_APACHE: Final = dict.fromkeys(_OFFICIAL, "Apache-2.0")

_V2_LICENSES: Final = {
    ModelVariant.VITT14: "Apache-2.0",
    ModelVariant.VITS14: "Apache-2.0",
    ModelVariant.VITB14: "CC-BY-NC-4.0",
    ModelVariant.VITL14: "CC-BY-NC-4.0",
}
"""By V2's README. It says so of the relative models; cards of the metric ones carry no tag (V2 issue 245 is
unanswered), and each is fine-tuned from the relative encoder of its size. ViTT14 is this project's own."""


def _names(prefix: str, variants: Iterable[ModelVariant] = _OFFICIAL) -> dict[ModelVariant, str]:
    return {variant: f"{prefix}_vit{VARIANTS[variant].letter}14" for variant in variants}


def _v2_metric(training_set: str, max_depth: float) -> FamilySpec:
    return FamilySpec(
        names=_names(f"depth_anything_v2_metric_{training_set}"),
        layers=_SPREAD_LAYERS,
        layout=_FLAT_LAYOUT,
        activation=OutputActivation.SIGMOID,
        max_depth=max_depth,
        kind=DepthKind.METRIC,
        align_corners=True,
        licenses={variant: _V2_LICENSES[variant] for variant in _OFFICIAL},
    )


def _v3(name: str, kind: DepthKind, focal_divisor: float | None) -> FamilySpec:
    return FamilySpec(
        names={ModelVariant.VITL14: name},
        layers=_SPREAD_LAYERS,
        layout=_V3_LAYOUT,
        activation=OutputActivation.EXP,
        # `nn.LayerNorm` by its default; the blocks are given 1e-6.
        final_norm_eps=1e-5,
        kind=kind,
        focal_divisor=focal_divisor,
        # Upstream returns depth at the network's size. As in V2, neighbouring pixels are joined edge to edge.
        align_corners=True,
        resize_bound=ResizeBound.UPPER,
        input_size=504,
        licenses={ModelVariant.VITL14: "Apache-2.0"},
    )


FAMILIES: Final[Mapping[ModelFamily, FamilySpec]] = MappingProxyType(
    {
        ModelFamily.DEPTH_ANYTHING: FamilySpec(
            names=_names("depth_anything"),
            layers=_LAST_LAYERS,
            layout=_FLAT_LAYOUT,
            activation=OutputActivation.RELU,
            kind=DepthKind.RELATIVE_INVERSE,
            align_corners=False,  # V1 `run.py`
            licenses=_APACHE,  # the maintainer in V1 issue 15; the repository's LICENSE
        ),
        ModelFamily.DEPTH_ANYTHING_V2: FamilySpec(
            names=_names("depth_anything_v2", ModelVariant),
            layers=_SPREAD_LAYERS,
            layout=_FLAT_LAYOUT,
            activation=OutputActivation.RELU,
            kind=DepthKind.RELATIVE_INVERSE,
            align_corners=True,  # V2 `infer_image`
            licenses=_V2_LICENSES,
        ),
        ModelFamily.DEPTH_ANYTHING_V2_METRIC_HYPERSIM: _v2_metric("hypersim", 20.0),
        ModelFamily.DEPTH_ANYTHING_V2_METRIC_VKITTI: _v2_metric("vkitti", 80.0),
        ModelFamily.DEPTH_ANYTHING_3_MONO: _v3("depth_anything_3_mono_vitl14", DepthKind.RELATIVE_DEPTH, None),
        # Without a focal length its scale is unknown, which is what relative means.
        ModelFamily.DEPTH_ANYTHING_3_METRIC: _v3("depth_anything_3_metric_vitl14", DepthKind.RELATIVE_DEPTH, 300.0),
    }
)
"""Every family as one row."""


def model_spec(family: ModelFamily, variant: ModelVariant) -> ModelSpec:
    """Combine a family and a variant into the description of one model.

    Raises:
        StartupError: `InvalidSettings`: the family has no such variant.
    """
    traits = FAMILIES[family]
    if variant not in traits.names:
        known = ", ".join(traits.names)
        message = f"{family} has no variant {variant}; set DEPTH_SERVER_MODEL_VARIANT to {known}"
        raise StartupError(StartupReason.INVALID_SETTINGS, message)
    return ModelSpec(
        family=family,
        variant=variant,
        dimensions=VARIANTS[variant],
        traits=traits,
        layers=traits.layers[variant],
        name=traits.names[variant],
        kind=traits.kind,
        align_corners=traits.align_corners,
        weights_license=traits.licenses[variant],
    )
