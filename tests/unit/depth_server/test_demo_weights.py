"""The weights that come with the package: whole, loadable, and worth showing."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import sklearn.datasets
import torch

from depth_server.__main__ import main
from depth_server.demo_weights import DEMO_WEIGHTS_FILE, copy_demo_weights
from depth_server.model.variants import ModelFamily, ModelVariant, model_spec
from depth_server.model.weights import load_depth_anything
from depth_server.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
SPEC = model_spec(ModelFamily.DEPTH_ANYTHING_V2, ModelVariant.VITT14)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("weights")
    copy_demo_weights(out)
    return out / DEMO_WEIGHTS_FILE


def test_the_file_is_the_one_that_its_card_describes(weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert f"`{digest}`" in (ROOT / "training/demo_weights/README.md").read_text()
    assert weights.stat().st_size <= 13_000_000


def test_depth_of_a_photograph_puts_the_sky_behind_the_foreground(weights: Path) -> None:
    photograph = sklearn.datasets.load_sample_image("china.jpg")
    pixels = cv2.resize(photograph, (336, 224), interpolation=cv2.INTER_CUBIC)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = ((pixels / 255 - mean) / deviation).astype(np.float32).transpose(2, 0, 1)
    with torch.inference_mode():
        depth = load_depth_anything(weights, SPEC)(torch.from_numpy(normalised)[None])[0].numpy()
    sky, foreground = depth[20:60, 200:300], depth[200:, :]
    assert np.isfinite(depth).all()
    assert np.median(sky) < 0.1 * np.median(foreground), "inverse depth: near is large"


def test_the_command_writes_a_file_or_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo-weights", "--out", str(tmp_path / "w.safetensors")]) == 0
    assert "not for real work" in capsys.readouterr().out
    assert main(["demo-weights", "--out", str(tmp_path)]) == 0
    assert (tmp_path / DEMO_WEIGHTS_FILE).read_bytes() == (tmp_path / "w.safetensors").read_bytes()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo-weights", "--out", str(tmp_path / "absent" / "w.safetensors")]) == 1
    assert "absent" in capsys.readouterr().err


def test_the_first_family_has_no_such_variant() -> None:
    with pytest.raises(
        ValueError,
        match="DepthAnything has no variant ViTT14; set DEPTH_SERVER_MODEL_VARIANT to ViTS14, ViTB14, ViTL14",
    ):
        Settings(weights=Path("w"), model_family=ModelFamily.DEPTH_ANYTHING, model_variant=ModelVariant.VITT14)
