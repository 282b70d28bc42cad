"""The model equals the upstream formulas: max|a - b| / max|b| <= 1e-4 in fp32, at square and other sizes."""

from pathlib import Path

import pytest
import torch

from depth_server.model.backbone import PositionEmbedding, resample_pos_embed
from depth_server.model.depth_anything import DepthAnything
from depth_server.model.layout import UNUSED_KEYS
from depth_server.model.random_weights import write_random_weights
from depth_server.model.variants import ModelFamily, ModelVariant, model_spec
from depth_server.model.weights import load_depth_anything, read_state_dict
from tests.unit.depth_server.reference_depth_anything import max_relative_error, reference_depth

TOLERANCE = 1e-4
V1, V2 = ModelFamily.DEPTH_ANYTHING, ModelFamily.DEPTH_ANYTHING_V2
SIZES = [(518, 518), (518, 686), (392, 518)]


@pytest.fixture(scope="module")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def weights_of(folder: Path, variant: ModelVariant) -> Path:
    path = folder / f"{variant}.safetensors"
    if not path.exists():
        write_random_weights(variant, path, seed=7)
    return path


def pixels_of(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@torch.inference_mode()
def assert_parity(
    path: Path, family: ModelFamily, variant: ModelVariant, size: tuple[int, int], batch: int = 1
) -> None:
    pixels = pixels_of(*size, batch=batch)
    actual = load_depth_anything(path, model_spec(family, variant))(pixels)
    expected = reference_depth(read_state_dict(path), family, variant, pixels)
    assert actual.shape == expected.shape == (batch, *size)
    assert expected.std() > 0.05 * expected.mean(), "the reference output must vary, or equality proves nothing"
    assert max_relative_error(actual, expected) <= TOLERANCE


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", [V1, V2])
def test_vits_equals_reference(weights_folder: Path, family: ModelFamily, size: tuple[int, int]) -> None:
    assert_parity(weights_of(weights_folder, ModelVariant.VITS14), family, ModelVariant.VITS14, size)


def test_the_variant_of_the_demo_equals_reference(weights_folder: Path) -> None:
    path = weights_of(weights_folder, ModelVariant.VITT14)
    assert_parity(path, V2, ModelVariant.VITT14, (392, 518))


def test_batch_equals_reference(weights_folder: Path) -> None:
    assert_parity(weights_of(weights_folder, ModelVariant.VITS14), V2, ModelVariant.VITS14, (126, 168), batch=2)


@pytest.mark.parametrize("family", [V1, V2])
def test_vitb_equals_reference(weights_folder: Path, family: ModelFamily) -> None:
    assert_parity(weights_of(weights_folder, ModelVariant.VITB14), family, ModelVariant.VITB14, (392, 518))


@pytest.mark.slow
@pytest.mark.parametrize(("family", "size"), [*((V2, size) for size in SIZES), (V1, (392, 518))], ids=str)
def test_vitl_equals_reference(weights_folder: Path, family: ModelFamily, size: tuple[int, int]) -> None:
    assert_parity(weights_of(weights_folder, ModelVariant.VITL14), family, ModelVariant.VITL14, size)


def test_families_differ_on_the_same_file(weights_folder: Path) -> None:
    path = weights_of(weights_folder, ModelVariant.VITS14)
    pixels = pixels_of(126, 126)
    with torch.inference_mode():
        v1, v2 = (load_depth_anything(path, model_spec(family, ModelVariant.VITS14))(pixels) for family in (V1, V2))
    assert max_relative_error(v1, v2) > 0.01


def test_unused_keys_do_not_change_the_depth(weights_folder: Path, tmp_path: Path) -> None:
    path = weights_of(weights_folder, ModelVariant.VITS14)
    state = read_state_dict(path)
    kept = {key: value for key, value in state.items() if not UNUSED_KEYS.fullmatch(key)}
    assert len(state) - len(kept) == 5
    torch.save(kept, tmp_path / "slim.pth")
    pixels = pixels_of(126, 140)
    spec = model_spec(V2, ModelVariant.VITS14)
    with torch.inference_mode():
        full, slim = (load_depth_anything(file, spec)(pixels) for file in (path, tmp_path / "slim.pth"))
    assert torch.equal(full, slim)


@pytest.mark.parametrize(
    ("variant", "published"),
    [(ModelVariant.VITS14, 24.79), (ModelVariant.VITB14, 97.47), (ModelVariant.VITL14, 335.32)],
)
def test_parameter_count_is_the_published_one(variant: ModelVariant, published: float) -> None:
    with torch.device("meta"):
        model = DepthAnything(model_spec(V2, variant))
    unused_unit = 2 * (model.spec.dimensions.features**2 * 9 + model.spec.dimensions.features)
    millions = (sum(parameter.numel() for parameter in model.parameters()) + unused_unit) / 1e6
    assert millions == pytest.approx(published, abs=0.01)


def test_position_embedding_is_stored_one_at_the_training_grid() -> None:
    stored = torch.randn(1, 1 + 37 * 37, 8)
    assert torch.equal(resample_pos_embed(stored, 37, 37), stored)
    # 1369 patches in another shape are not the training grid.
    assert resample_pos_embed(stored, 1, 1369).shape == stored.shape


@pytest.mark.parametrize("grid", [(1, 1), (9, 73), (39, 39), (43, 43), (73, 73), (86, 86)], ids=str)
def test_position_embedding_has_the_asked_grid(grid: tuple[int, int]) -> None:
    assert resample_pos_embed(torch.randn(1, 1370, 4), *grid).shape == (1, 1 + grid[0] * grid[1], 4)


def test_position_cache_is_bounded_and_rounds_once() -> None:
    stored = torch.randn(1, 1370, 4)
    cache = PositionEmbedding(capacity=2)
    first = cache(stored, 9, 9, torch.float32)
    assert cache(stored, 9, 9, torch.float32) is first
    cache(stored, 9, 10, torch.float32)
    cache(stored, 9, 11, torch.float32)
    assert cache(stored, 9, 9, torch.float32) is not first
    assert torch.equal(cache(stored, 9, 9, torch.bfloat16), first.bfloat16())


def test_cast_keeps_the_last_convolutions_and_the_position_grid_in_fp32(weights_folder: Path) -> None:
    path = weights_of(weights_folder, ModelVariant.VITS14)
    spec = model_spec(V2, ModelVariant.VITS14)
    pixels = pixels_of(126, 126)
    with torch.inference_mode():
        expected = load_depth_anything(path, spec)(pixels)
        model = load_depth_anything(path, spec)
        model.cast(torch.bfloat16)
        actual = model(pixels.bfloat16())
    assert actual.dtype is torch.float32
    assert model.backbone.vit.pos_embed.dtype is torch.float32
    assert model.backbone.vit.norm.weight.dtype is torch.bfloat16
    assert max_relative_error(actual, expected) < 0.1
