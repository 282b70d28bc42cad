"""The file's layout, and the pieces of the network that are not torch's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 torch's own convention
from safetensors.torch import load_file, save_file

from training.demo_weights.evaluate import load_network
from training.demo_weights.network import UNUSED_KEYS, VITT14, DepthAnythingTiny, exported, resample_pos_embed, resize
from training.demo_weights.optimizer import MuonAdamW, orthogonalise
from training.demo_weights.train import FILE_NAME, digest, learning_rate_at

ROOT = Path(__file__).resolve().parents[3]
RESULT = ROOT / "training/demo_weights/result"
WEIGHTS = ROOT / "inference_server/depth_server/weights" / FILE_NAME
BUDGET_BYTES = 13_000_000


def affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": (shape[0],)}


def official_layout() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a file of this size, written down from the official checkpoints."""
    d, c, out = VITT14.embed_dim, VITT14.features, VITT14.out_channels
    keys: dict[str, tuple[int, ...]] = {
        "pretrained.cls_token": (1, 1, d),
        "pretrained.pos_embed": (1, 1370, d),
        **affine("pretrained.patch_embed.proj", d, 3, 14, 14),
        **affine("pretrained.norm", d),
    }
    for index in range(VITT14.depth):
        block = f"pretrained.blocks.{index}."
        keys |= affine(block + "norm1", d) | affine(block + "norm2", d)
        keys |= affine(block + "attn.qkv", 3 * d, d) | affine(block + "attn.proj", d, d)
        keys |= affine(block + "mlp.fc1", 4 * d, d) | affine(block + "mlp.fc2", d, 4 * d)
        keys |= {block + "ls1.gamma": (d,), block + "ls2.gamma": (d,)}
    for index, channels in enumerate(out):
        keys |= affine(f"depth_head.projects.{index}", channels, d, 1, 1)
        keys |= {f"depth_head.scratch.layer{index + 1}_rn.weight": (c, channels, 3, 3)}
    keys |= affine("depth_head.resize_layers.0", out[0], out[0], 4, 4)
    keys |= affine("depth_head.resize_layers.1", out[1], out[1], 2, 2)
    keys |= affine("depth_head.resize_layers.3", out[3], out[3], 3, 3)
    for level in range(1, 5):
        stage = f"depth_head.scratch.refinenet{level}."
        keys |= affine(stage + "out_conv", c, c, 1, 1)
        for unit in ("resConfUnit1", "resConfUnit2"):
            keys |= affine(f"{stage}{unit}.conv1", c, c, 3, 3) | affine(f"{stage}{unit}.conv2", c, c, 3, 3)
    keys |= affine("depth_head.scratch.output_conv1", c // 2, c, 3, 3)
    keys |= affine("depth_head.scratch.output_conv2.0", 32, c // 2, 3, 3)
    keys |= affine("depth_head.scratch.output_conv2.2", 1, 32, 1, 1)
    return {key: shape for key, shape in keys.items() if not key.startswith(UNUSED_KEYS)}


def test_the_exported_file_has_the_official_layout_and_loads_strictly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DepthAnythingTiny()
    path = tmp_path / "weights.safetensors"
    save_file(exported(network.state_dict()), path)
    state = load_file(path)
    assert {key: tuple(value.shape) for key, value in state.items()} == official_layout()
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert path.stat().st_size <= BUDGET_BYTES
    pixels = torch.rand(1, 3, 28, 42)
    loaded = load_network(path, torch.device("cpu"))
    assert torch.allclose(loaded(pixels), network.eval()(pixels), atol=2e-2)


def test_a_file_that_lacks_a_key_is_refused(tmp_path: Path) -> None:
    state = exported(DepthAnythingTiny().state_dict())
    del state["pretrained.norm.bias"]
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(RuntimeError, match=re.escape("pretrained.norm.bias")):
        load_network(tmp_path / "weights.safetensors", torch.device("cpu"))


def test_the_committed_weights_are_the_ones_that_the_card_names() -> None:
    path = WEIGHTS
    assert path.stat().st_size <= BUDGET_BYTES
    assert digest(path) in (RESULT.parent / "README.md").read_text()
    state = load_file(path)
    assert {key: tuple(value.shape) for key, value in state.items()} == official_layout()
    assert all(value.isfinite().all() for value in state.values())


def test_the_committed_weights_see_that_the_ground_is_nearer_than_the_sky() -> None:
    """A grey, speckled ground under a blue gradient: the least that a depth map must show."""
    network = load_network(WEIGHTS, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(0, 1, 252)[:, None].expand(252, 336)
    sky = torch.stack([0.5 + 0.3 * rows, 0.7 + 0.2 * rows, torch.full_like(rows, 0.95)])
    ground = 0.4 + 0.1 * torch.rand(1, 252, 336, generator=generator).expand(3, -1, -1)
    rgb = torch.where(rows > 0.5, ground, sky)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        inverse = network(((rgb - mean) / deviation)[None])[0]
    bands = [inverse[a:b].mean().item() for a, b in ((0, 100), (140, 170), (210, 252))]
    assert bands == sorted(bands)
    assert bands[0] < 0.2 * bands[2]


def test_the_gradient_of_the_resize_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    first = torch.rand(2, 3, 5, 7, generator=generator, requires_grad=True)
    second = first.detach().clone().requires_grad_()
    weight = torch.rand(2, 3, 11, 13, generator=generator)
    torch.autograd.backward((resize(first, (11, 13)) * weight).sum())
    expected = F.interpolate(second, size=(11, 13), mode="bilinear", align_corners=True)
    torch.autograd.backward((expected * weight).sum())
    assert torch.allclose(first.grad, second.grad, atol=1e-5)  # type: ignore[arg-type]  # both were just computed


def test_the_stored_position_grid_is_used_as_it_is_at_its_own_size() -> None:
    stored = torch.rand(1, 1370, 8)
    assert resample_pos_embed(stored, 37, 37) is stored
    assert resample_pos_embed(stored, 18, 24).shape == (1, 1 + 18 * 24, 8)


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 48, 16, generator=torch.Generator().manual_seed(2))
    singular = torch.linalg.svdvals(orthogonalise(matrices).float())
    assert (singular > 0.5).all()
    assert (singular < 1.5).all()


def test_every_parameter_is_trained_once() -> None:
    network = DepthAnythingTiny()
    optimizer = MuonAdamW(network, weight_decay=0.0)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer.step(1e-2)
    unmoved = [name for name, p in network.named_parameters() if torch.equal(p, before[name])]
    assert unmoved == []


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    assert learning_rate_at(0, 0.0, 1.0) < learning_rate_at(100, 0.01, 1.0)
    assert learning_rate_at(10_000, 0.5, 1.0) == pytest.approx(0.5)
    assert learning_rate_at(10_000, 1.0, 1.0) == pytest.approx(0.0)
