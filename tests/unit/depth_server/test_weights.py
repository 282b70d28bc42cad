import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from depth_server.errors import StartupError, StartupReason
from depth_server.model.layout import official_layout
from depth_server.model.random_weights import random_state_dict, write_random_weights
from depth_server.model.variants import ModelFamily, ModelVariant, model_spec
from depth_server.model.weights import load_depth_anything
from depth_server.model.weights_file import name_warning, verify_weights_file

S, B, L = ModelVariant.VITS14, ModelVariant.VITB14, ModelVariant.VITL14
V1, V2 = ModelFamily.DEPTH_ANYTHING, ModelFamily.DEPTH_ANYTHING_V2


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(array) for key, array in random_state_dict(S, 0).items()}


def save(path: Path, state: Any) -> Path:
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    return path


def refusal(path: Path, variant: ModelVariant = S) -> tuple[StartupReason, str]:
    with pytest.raises(StartupError) as raised:
        load_depth_anything(path, model_spec(V2, variant))
    return raised.value.reason, str(raised.value)


@pytest.mark.parametrize(("variant", "keys"), [(S, 239), (B, 239), (L, 407)])
def test_layout_has_the_official_number_of_keys(variant: ModelVariant, keys: int) -> None:
    # The published counts include refinenet4.resConfUnit1 and mask_token.
    assert len(official_layout(variant)) == keys


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_both_formats_load_and_agree(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    model = load_depth_anything(save(tmp_path / f"a{suffix}", state), model_spec(V2, S))
    weight = state["depth_head.scratch.refinenet2.resConfUnit1.conv2.weight"]
    assert torch.equal(model.head.fusion["layer2"].lateral_unit.conv2.weight, weight)
    assert torch.equal(model.backbone.vit.blocks[3].attn.qkv.weight, state["pretrained.blocks.3.attn.qkv.weight"])
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_half_precision_files_are_widened(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = save(tmp_path / "half.safetensors", {key: value.half() for key, value in state.items()})
    model = load_depth_anything(path, model_spec(V2, S))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("asked", [B, L])
def test_other_variant_is_named(tmp_path: Path, state: dict[str, torch.Tensor], asked: ModelVariant) -> None:
    reason, message = refusal(save(tmp_path / "s.safetensors", state), asked)
    assert reason is StartupReason.MODEL_MISMATCH
    assert f"holds ViTS14, the declared variant is {asked}" in message


def test_missing_keys_are_named_by_the_first_few(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    kept = {key: value for key, value in state.items() if "blocks.11." not in key}
    reason, message = refusal(save(tmp_path / "a.safetensors", kept))
    assert reason is StartupReason.WEIGHTS_INVALID
    assert "pretrained.blocks.11.norm1.weight" in message
    assert "and 11 more are missing" in message


def test_unexpected_keys_are_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    reason, message = refusal(save(tmp_path / "a.safetensors", {**state, "extra.weight": torch.zeros(1)}))
    assert reason is StartupReason.WEIGHTS_INVALID
    assert "extra.weight is not part" in message


def test_wrong_shape_is_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    changed = {**state, "pretrained.norm.weight": torch.zeros(7)}
    reason, message = refusal(save(tmp_path / "a.safetensors", changed))
    assert reason is StartupReason.WEIGHTS_INVALID
    assert "pretrained.norm.weight has the shape [7], ViTS14 needs [384]" in message


def test_integers_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    changed = {**state, "pretrained.norm.bias": torch.zeros(384, dtype=torch.int64)}
    assert "pretrained.norm.bias is not of a floating-point type" in refusal(save(tmp_path / "a.pth", changed))[1]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "text"])
def test_unreadable_files_are_told_apart(
    tmp_path: Path, state: dict[str, torch.Tensor], suffix: str, damage: str
) -> None:
    path = save(tmp_path / f"a{suffix}", state)
    path.write_bytes(path.read_bytes()[:100_000] if damage == "truncated" else b"not weights at all")
    reason, message = refusal(path)
    assert reason is StartupReason.WEIGHTS_INVALID
    assert f"cannot be read as {suffix}" in message


def test_wrapped_checkpoint_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    reason, message = refusal(save(tmp_path / "a.pth", {"model": state, "epoch": 3}))
    assert reason is StartupReason.WEIGHTS_INVALID
    assert "model, epoch are no tensor; expected a flat mapping" in message


def test_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    path = tmp_path / "a.pth"
    torch.save({"pretrained.cls_token": Payload()}, path)
    assert refusal(path)[0] is StartupReason.WEIGHTS_INVALID
    path.write_bytes(pickle.dumps(Payload()))
    assert refusal(path)[0] is StartupReason.WEIGHTS_INVALID
    assert not marker.exists()


def test_file_checks(tmp_path: Path) -> None:
    def reason(path: Path, sha256: str = "") -> StartupReason:
        with pytest.raises(StartupError) as raised:
            verify_weights_file(path, sha256, V1)
        assert str(path) in str(raised.value)
        return raised.value.reason

    path = tmp_path / "a.pth"
    assert reason(path) is StartupReason.WEIGHTS_NOT_FOUND
    path.touch()
    assert reason(path) is StartupReason.WEIGHTS_INVALID
    path.write_bytes(b"abc")
    assert reason(path, "0" * 64) is StartupReason.DIGEST_MISMATCH
    assert reason(tmp_path / "a.onnx") is StartupReason.WEIGHTS_INVALID
    (tmp_path / "folder.pth").mkdir()
    assert reason(tmp_path / "folder.pth") is StartupReason.WEIGHTS_INVALID
    verify_weights_file(path, hashlib.sha256(b"abc").hexdigest(), V1)


@pytest.mark.parametrize(
    ("name", "family", "warns"),
    [
        ("depth_anything_v2_vits.pth", V2, False),
        ("depth_anything_v2_vits.pth", V1, True),
        ("depth_anything_vits14.pth", V1, False),
        ("depth_anything_vits14.pth", V2, True),
        ("depth_anything_v2_metric_vkitti_vits.pth", V2, True),
        ("model.safetensors", V1, False),
    ],
)
def test_file_name_of_another_family_is_worth_a_warning(name: str, family: ModelFamily, warns: bool) -> None:
    assert (name_warning(name, family) is not None) is warns


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_random_weights_are_deterministic_and_depend_on_the_seed(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_random_weights(S, path, seed)
    first, second, other = (load_depth_anything(path, model_spec(V1, S)).state_dict() for path in paths)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["backbone.vit.norm.weight"], other["backbone.vit.norm.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}{suffix}" for name in "abc"]


def test_random_weights_of_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end with \.pth or \.safetensors"):
        write_random_weights(S, tmp_path / "a.bin", 0)


def test_random_weights_are_finite_float32() -> None:
    for array in random_state_dict(S, 3).values():
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
