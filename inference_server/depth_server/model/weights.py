"""Strict loading of official Depth Anything checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from depth_server.errors import StartupError, StartupReason
from depth_server.model.depth_anything import DepthAnything
from depth_server.model.layout import UNUSED_KEYS, Shape, module_key, official_layout
from depth_server.model.variants import FAMILIES, VARIANTS, ModelFamily, ModelSpec, ModelVariant

KEYS_IN_MESSAGE: Final = 3
"""How many keys an error message names."""


def load_depth_anything(path: Path, spec: ModelSpec) -> DepthAnything:
    """Build the model and fill it from an official file, on the CPU and in fp32.

    Args:
        path: A `.pth` or `.safetensors` file with the flat official layout.
        spec: The declared model.

    Raises:
        StartupError: `WeightsInvalid` if the file cannot be read or its keys, shapes or types are wrong;
            `ModelMismatch` if it holds another variant.
    """
    state = read_state_dict(path)
    check_layout({key: tuple(tensor.shape) for key, tensor in state.items()}, spec.variant, path, spec.family)
    integral = [key for key, tensor in state.items() if not tensor.is_floating_point()]
    if integral:
        raise _invalid(path, f"{_listed(integral)} not of a floating-point type")
    # Built without memory and filled by reference: ViT-L is held once, not twice.
    with torch.device("meta"):
        model = DepthAnything(spec)
    used = {module_key(key): tensor.float() for key, tensor in state.items() if not UNUSED_KEYS.fullmatch(key)}
    model.load_state_dict(used, strict=True, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a flat mapping of names to tensors.

    Raises:
        StartupError: `WeightsInvalid`.
    """
    try:
        loaded: Any = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise _invalid(path, f"cannot be read as {path.suffix}: {type(error).__name__}") from error
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise _invalid(path, f"holds a {type(loaded).__name__}, expected a flat mapping of names to tensors")
    wrong = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
    if wrong:
        raise _invalid(path, f"{_listed(wrong)} no tensor; expected a flat mapping of names to tensors")
    return dict(loaded)


def check_layout(
    shapes: Mapping[str, Shape],
    variant: ModelVariant,
    path: Path,
    family: ModelFamily = ModelFamily.DEPTH_ANYTHING_V2,
) -> None:
    """Compare a file's keys and shapes with the official layout of the declared model.

    Args:
        shapes: Shape of every tensor in the file, by key.
        variant: Declared variant.
        path: Named in messages.
        family: Declared family.

    Raises:
        StartupError: `ModelMismatch` if the file looks like another model, else `WeightsInvalid`.
    """
    others = families_laid_out_as(shapes)
    if others and family not in others:
        message = (
            f"{path} is laid out as {' or '.join(others)}, the declared family is {family}; correct "
            "DEPTH_SERVER_MODEL_FAMILY or the file"
        )
        raise StartupError(StartupReason.MODEL_MISMATCH, message)
    found = detect_variant(shapes)
    if found is not None and found is not variant:
        message = f"{path} holds {found}, the declared variant is {variant}; correct the variant or the file"
        raise StartupError(StartupReason.MODEL_MISMATCH, message)
    expected = official_layout(variant, family)
    missing = [key for key in expected if key not in shapes and not UNUSED_KEYS.fullmatch(key)]
    if missing:
        raise _invalid(path, f"{_listed(missing)} missing from the layout of {variant}")
    unexpected = [key for key in shapes if key not in expected and not UNUSED_KEYS.fullmatch(key)]
    if unexpected:
        raise _invalid(path, f"{_listed(unexpected)} not part of the layout of {variant}")
    for key, shape in shapes.items():
        if key in expected and shape != expected[key]:
            raise _invalid(path, f"{key} has the shape {list(shape)}, {variant} needs {list(expected[key])}")


def detect_variant(shapes: Mapping[str, Shape]) -> ModelVariant | None:
    """Tell by the width of the tokens which variant a file holds; None if it is none of ours."""
    for traits in FAMILIES.values():
        shape = shapes.get(traits.layout.backbone_prefix + "cls_token")
        for variant, dimensions in VARIANTS.items():
            if shape == (1, 1, dimensions.embed_dim):
                return variant
    return None


def families_laid_out_as(shapes: Mapping[str, Shape]) -> list[ModelFamily]:
    """List the families whose files name the backbone as this one does; none if it is no file of ours."""
    return [family for family, traits in FAMILIES.items() if traits.layout.backbone_prefix + "cls_token" in shapes]


def _invalid(path: Path, message: str) -> StartupError:
    return StartupError(StartupReason.WEIGHTS_INVALID, f"{path}: {message}")


def _listed(keys: list[str]) -> str:
    """Name the first keys, with the verb that follows: `a is`, `a, b are`, `a, b, c and 4 more are`."""
    named = ", ".join(keys[:KEYS_IN_MESSAGE])
    if len(keys) > KEYS_IN_MESSAGE:
        return f"{named} and {len(keys) - KEYS_IN_MESSAGE} more are"
    return f"{named} {'is' if len(keys) == 1 else 'are'}"
