"""Families beyond the first two equal their upstream formulas; their files are told apart and their licences gated.

The backbone and the pyramid are those of `reference_depth_anything`; what differs is transcribed here.
Sources: Depth-Anything-V2 `metric_depth/depth_anything_v2/dpt.py`; Depth-Anything-3 `model/dpt.py`, `model/da3.py`,
`model/dinov2/vision_transformer.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from depth_server.errors import StartupError, StartupReason
from depth_server.licences import check_license
from depth_server.model.depth_anything import fill_sky
from depth_server.model.focal import metres_per_value
from depth_server.model.layout import UNUSED_KEYS, module_key, official_layout
from depth_server.model.sky import fill_sky as fill_sky_of_arrays
from depth_server.model.variants import (
    FAMILIES,
    DepthKind,
    ModelFamily,
    ModelVariant,
    ResizeBound,
    model_spec,
)
from depth_server.model.weights import check_layout
from depth_server.model.weights_file import name_warning
from tests.engines.models import pixels_of, small_model, small_spec, small_state
from tests.unit.depth_server import reference_depth_anything as reference

TOLERANCE = 1e-4
V1, V2 = ModelFamily.DEPTH_ANYTHING, ModelFamily.DEPTH_ANYTHING_V2
HYPERSIM, VKITTI = ModelFamily.DEPTH_ANYTHING_V2_METRIC_HYPERSIM, ModelFamily.DEPTH_ANYTHING_V2_METRIC_VKITTI
MONO, METRIC = ModelFamily.DEPTH_ANYTHING_3_MONO, ModelFamily.DEPTH_ANYTHING_3_METRIC
SIZES = [(126, 126), (126, 182), (252, 168)]


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the third generation to those of the second."""
    return {
        key.replace("model.backbone.pretrained.", "pretrained.").replace("model.head.", "depth_head."): value
        for key, value in state.items()
    }


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + eps) * weight + bias


def reference_features(state: dict[str, Tensor], pixels: Tensor, final_eps: float) -> list[Tensor]:
    """Tokens of blocks 2, 5, 8 and 11; the blocks' own norms have an epsilon of 1e-6 in every family."""
    h, w = pixels.shape[2] // 14, pixels.shape[3] // 14
    weight, bias = state["pretrained.patch_embed.proj.weight"], state["pretrained.patch_embed.proj.bias"]
    x = torch.nn.functional.conv2d(pixels, weight, bias, stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([state["pretrained.cls_token"].expand(x.shape[0], -1, -1), x], dim=1)
    x = x + reference.position_embedding(state["pretrained.pos_embed"], h, w)
    features = []
    for index in range(12):
        x = reference.block(state, f"pretrained.blocks.{index}", x, 6)
        if index in (2, 5, 8, 11):
            features.append(
                layer_norm(x, state["pretrained.norm.weight"], state["pretrained.norm.bias"], final_eps)[:, 1:]
            )
    return features


def reference_pyramid(state: dict[str, Tensor], features: list[Tensor], h: int, w: int) -> Tensor:
    """Features at the size of the image, before the last two convolutions: the reference's head, cut off there."""
    taken: list[Tensor] = []
    original = reference.conv

    def conv(weights: reference.State, name: str, x: Tensor, *, padding: int = 0, stride: int = 1) -> Tensor:
        if name == "depth_head.scratch.output_conv2.0":
            taken.append(x)
        return original(weights, name, x, padding=padding, stride=stride)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "conv", conv)
        reference.head(state, features, h, w)
    return taken[0]


def last_convolutions(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = torch.relu(reference.conv(state, f"depth_head.scratch.{name}.0", x, padding=1))
    return reference.conv(state, f"depth_head.scratch.{name}.2", hidden).squeeze(1)


@torch.inference_mode()
def reference_maps(family: ModelFamily, state: dict[str, Tensor], pixels: Tensor) -> list[Tensor]:
    state = flat(state)
    if family in (MONO, METRIC):
        # The file lacks what the reference computes into nothing.
        size = state["depth_head.scratch.refinenet1.out_conv.bias"].shape[0]
        for conv in ("conv1", "conv2"):
            state[f"depth_head.scratch.refinenet4.resConfUnit1.{conv}.weight"] = torch.zeros(size, size, 3, 3)
    features = reference_features(state, pixels, 1e-5 if family in (MONO, METRIC) else 1e-6)
    shared = reference_pyramid(state, features, pixels.shape[2] // 14, pixels.shape[3] // 14)
    logits = last_convolutions(state, "output_conv2", shared)
    if family in (HYPERSIM, VKITTI):
        return [(20.0 if family is HYPERSIM else 80.0) / (1 + torch.exp(-logits))]
    return [torch.exp(logits), torch.clamp(last_convolutions(state, "sky_output_conv2", shared), min=0)]


@pytest.fixture(scope="module")
def states() -> dict[ModelFamily, dict[str, Tensor]]:
    return {family: small_state(family) for family in (HYPERSIM, MONO)}


def state_of(states: dict[ModelFamily, dict[str, Tensor]], family: ModelFamily) -> dict[str, Tensor]:
    return states[HYPERSIM if family in (HYPERSIM, VKITTI) else MONO]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", [HYPERSIM, VKITTI, MONO, METRIC])
def test_family_equals_reference(
    states: dict[ModelFamily, dict[str, Tensor]], family: ModelFamily, size: tuple[int, int]
) -> None:
    state, pixels = state_of(states, family), pixels_of(*size, batch=2)
    with torch.inference_mode():
        actual = small_model(family, state).forward_maps(pixels)
    expected = reference_maps(family, state, pixels)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape == (2, *size)
        assert theirs.std() > 0.01 * theirs.mean(), "the reference output must vary, or equality proves nothing"
        assert reference.max_relative_error(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("family", [V1, V2, HYPERSIM, MONO])
def test_bf16_is_near_fp32(family: ModelFamily) -> None:
    state, pixels = small_state(family), pixels_of(126, 168)
    with torch.inference_mode():
        expected = small_model(family, state).forward_maps(pixels)[0]
        model = small_model(family, state)
        model.cast(torch.bfloat16)
        actual = model.forward_maps(pixels.bfloat16())[0]
    assert actual.dtype is torch.float32
    floor = 0.01 * expected.max()
    assert ((actual - expected).abs() / torch.maximum(expected, floor)).mean() <= 0.01


def test_final_norm_and_sky_and_activation_are_the_familys() -> None:
    model = small_model(MONO)
    assert model.backbone.vit.norm.eps == 1e-5
    assert {block.norm1.eps for block in model.backbone.vit.blocks} == {1e-6}
    assert model.head.estimation.sky is not None
    assert small_model(VKITTI).head.estimation.max_depth == 80
    assert small_model(V2).head.estimation.sky is None


@given(
    st.integers(1, 3),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_sky_is_filled_alike_for_tensors_and_arrays(batch: int, share: float, seed: int) -> None:
    generator = np.random.Generator(np.random.PCG64(seed))
    depth = generator.random((batch, 7, 9), dtype=np.float32) + 0.1
    sky = (generator.random((batch, 7, 9)) < share).astype(np.float32)
    filled = fill_sky_of_arrays(depth, sky)
    np.testing.assert_allclose(fill_sky(torch.from_numpy(depth), torch.from_numpy(sky)).numpy(), filled, rtol=1e-6)
    for image, before, mask in zip(filled, depth, sky >= 0.3, strict=True):
        assert np.array_equal(image[~mask], before[~mask])
        if 10 < mask.sum() < mask.size - 10:
            assert np.allclose(image[mask], np.quantile(before[~mask], 0.99))
        else:
            assert np.array_equal(image, before)


def test_every_family_is_described() -> None:
    assert set(FAMILIES) == set(ModelFamily)
    names = [name for traits in FAMILIES.values() for name in traits.names.values()]
    assert len(names) == len(set(names)) == 15
    for traits in FAMILIES.values():
        assert set(traits.names) == set(traits.licenses) <= set(traits.layers)
        assert traits.input_size % 14 == 0
    assert {family: model_spec(family, ModelVariant.VITL14).kind for family in (V1, HYPERSIM, MONO, METRIC)} == {
        V1: DepthKind.RELATIVE_INVERSE,
        HYPERSIM: DepthKind.METRIC,
        MONO: DepthKind.RELATIVE_DEPTH,
        METRIC: DepthKind.RELATIVE_DEPTH,
    }
    assert model_spec(VKITTI, ModelVariant.VITS14).unit == "m"
    assert model_spec(METRIC, ModelVariant.VITL14).unit is None, "without a focal length there are no metres"
    assert FAMILIES[METRIC].focal_divisor == 300
    assert (FAMILIES[MONO].resize_bound, FAMILIES[MONO].input_size) == (ResizeBound.UPPER, 504)


@pytest.mark.parametrize("family", list(ModelFamily))
def test_layout_is_what_the_model_has(family: ModelFamily) -> None:
    layout = official_layout(ModelVariant.VITS14, family)
    expected = {module_key(key): shape for key, shape in layout.items() if not UNUSED_KEYS.fullmatch(key)}
    assert expected == {key: tuple(value.shape) for key, value in small_model(family).state_dict().items()}


def test_layouts_have_the_official_number_of_keys() -> None:
    assert len(official_layout(ModelVariant.VITL14, V2)) == 407
    assert len(official_layout(ModelVariant.VITS14, V2)) == 239
    assert len(official_layout(ModelVariant.VITL14, MONO)) == 406
    assert not any(UNUSED_KEYS.fullmatch(key) for key in official_layout(ModelVariant.VITL14, MONO))


@pytest.mark.parametrize(("holds", "declared"), [(V2, MONO), (METRIC, V1)])
def test_file_of_another_generation_is_told(holds: ModelFamily, declared: ModelFamily) -> None:
    shapes = official_layout(ModelVariant.VITL14, holds)
    with pytest.raises(StartupError, match="laid out as") as caught:
        check_layout(shapes, ModelVariant.VITL14, Path("model.safetensors"), declared)
    assert caught.value.reason is StartupReason.MODEL_MISMATCH
    assert holds in str(caught.value)


def test_unused_keys_may_be_there_although_the_official_file_lacks_them() -> None:
    shapes = official_layout(ModelVariant.VITL14, MONO)
    extra = {"model.head.scratch.refinenet4.resConfUnit1.conv1.bias": (256,)}
    check_layout(shapes | extra, ModelVariant.VITL14, Path("model.safetensors"), MONO)


@pytest.mark.parametrize(
    ("name", "family", "told"),
    [
        ("depth_anything_v2_metric_hypersim_vitl.pth", HYPERSIM, None),
        ("depth_anything_v2_metric_hypersim_vitl.pth", V2, HYPERSIM),
        ("depth_anything_v2_vitl.pth", VKITTI, V2),
        ("depth_anything_vitl14.pth", V2, V1),
        ("DA3METRIC-LARGE.safetensors", MONO, METRIC),
        ("model.safetensors", MONO, None),
    ],
)
def test_name_of_another_family_is_noticed(name: str, family: ModelFamily, told: ModelFamily | None) -> None:
    warning = name_warning(name, family)
    assert (warning is None) == (told is None)
    assert told is None or told in str(warning)


def test_unpublished_size_is_told() -> None:
    with pytest.raises(StartupError, match="ViTL14") as caught:
        model_spec(MONO, ModelVariant.VITS14)
    assert caught.value.reason is StartupReason.INVALID_SETTINGS


@pytest.mark.parametrize("family", list(ModelFamily))
@pytest.mark.parametrize("variant", list(ModelVariant))
def test_restricted_licence_must_be_named(family: ModelFamily, variant: ModelVariant) -> None:
    if variant not in FAMILIES[family].names:
        return
    spec = model_spec(family, variant)
    restricted = family in (V2, HYPERSIM, VKITTI) and variant in (ModelVariant.VITB14, ModelVariant.VITL14)
    check_license(spec, "CC-BY-NC-4.0")
    if not restricted:
        check_license(spec, "")
        return
    for accepted in ("", "yes", "cc-by-nc-4.0", "CC-BY-NC-SA-4.0"):
        with pytest.raises(StartupError, match=r"DEPTH_SERVER_LICENSE_ACCEPTED=CC-BY-NC-4\.0") as caught:
            check_license(spec, accepted)
        assert caught.value.reason is StartupReason.LICENSE_NOT_ACCEPTED
        assert spec.name in str(caught.value)


def test_metres_follow_from_the_focal_length() -> None:
    metric = model_spec(METRIC, ModelVariant.VITL14)
    assert metres_per_value(metric, 300, 504, 504) == 1
    # The same camera at half the size has half the focal length in pixels.
    assert metres_per_value(metric, 1200, 2016, 504) == metres_per_value(metric, 600, 1008, 504) == 1
    for family in (V1, HYPERSIM, MONO):
        assert metres_per_value(model_spec(family, ModelVariant.VITL14), 300, 504, 504) is None


def test_small_spec_keeps_the_traits() -> None:
    assert small_spec(METRIC).traits is FAMILIES[METRIC]
