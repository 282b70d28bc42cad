"""Small models with random weights for tests of engines."""

from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from depth_server.model.depth_anything import DepthAnything
from depth_server.model.layout import UNUSED_KEYS, module_key
from depth_server.model.random_weights import random_state_dict, write_random_weights
from depth_server.model.variants import VARIANTS, ModelFamily, ModelSpec, ModelVariant, model_spec


def small_spec(family: ModelFamily) -> ModelSpec:
    """A family with the dimensions of ViT-S, also where only a ViT-L was published."""
    if ModelVariant.VITS14 in model_spec(family, ModelVariant.VITL14).traits.names:
        return model_spec(family, ModelVariant.VITS14)
    return replace(
        model_spec(family, ModelVariant.VITL14),
        variant=ModelVariant.VITS14,
        dimensions=VARIANTS[ModelVariant.VITS14],
        layers=(2, 5, 8, 11),
    )


def small_state(family: ModelFamily, seed: int = 7) -> dict[str, torch.Tensor]:
    """The state dict of `small_spec` under its official keys."""
    arrays = random_state_dict(ModelVariant.VITS14, seed, family)
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


def small_model(family: ModelFamily, state: dict[str, torch.Tensor] | None = None) -> DepthAnything:
    """A model of `small_spec`, filled strictly."""
    model = DepthAnything(small_spec(family))
    state = small_state(family) if state is None else state
    model.load_state_dict({module_key(key): value for key, value in state.items() if not UNUSED_KEYS.fullmatch(key)})
    return model.eval().requires_grad_(requires_grad=False)


def small_weights(folder: Path, suffix: str = ".safetensors") -> Path:
    """A file of random ViT-S weights."""
    path = folder / f"depth_anything_vits14{suffix}"
    write_random_weights(ModelVariant.VITS14, path, seed=7)
    return path


def pixels_of(height: int, width: int, batch: int = 1) -> torch.Tensor:
    """Noise as pixels, the same for the same size."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    """Write a state dict as safetensors."""
    safetensors.torch.save_file(state, path)
    return path
