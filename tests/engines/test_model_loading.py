"""From settings to a verified model: each backend that runs here, the licence before anything else, the golden gate."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from depth_server.errors import StartupError, StartupReason
from depth_server.golden import golden_batch, mean_absrel
from depth_server.model_loading import common_sizes, export_onnx, load_model
from depth_server.preprocess import Size
from depth_server.settings import Settings
from tests.engines.models import small_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_weights(tmp_path_factory.mktemp("weights"))


def settings_of(cache: Path, **values: Any) -> Settings:
    defaults: dict[str, Any] = {
        "model_family": "DepthAnything",
        "model_variant": "ViTS14",
        "device": "cpu",
        "input_size": 126,
        "cache_folder": cache,
        "cpu_threads": 1,
        "onnx_sessions": 1,
    }
    return Settings(**defaults | values)


def test_common_sizes_are_upstreams(tmp_path: Path) -> None:
    assert common_sizes(settings_of(tmp_path, weights="a.pth", input_size=518)) == [
        Size(518, 518),
        Size(518, 686),
        Size(518, 784),
        Size(518, 924),
    ]


def test_common_sizes_of_an_upper_bound(tmp_path: Path) -> None:
    values = {"model_family": "DepthAnything3Mono", "model_variant": "ViTL14", "input_size": 504}
    sizes = common_sizes(settings_of(tmp_path, weights="a.pth", **values))
    assert sizes[:2] == [Size(504, 504), Size(378, 504)]
    assert max(size.width for size in sizes) == 504


def test_backends_agree_and_are_verified(weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    batch = golden_batch(Size(126, 126))
    eager = load_model(settings_of(tmp_path, weights=weights))
    eager.warm_up()
    expected = eager.forward(batch).depth
    assert "168x126 finite and varied" in caplog.text
    folder = tmp_path / "graphs"
    written = export_onnx(
        settings_of(tmp_path, weights=weights),
        folder,
        common_sizes(settings_of(tmp_path, weights=weights))[:2],
        int8=True,
    )
    assert all(path.is_file() for path in written)
    int8 = load_model(
        settings_of(tmp_path, weights=weights, backend="ONNXRuntime", precision="INT8", onnx_folder=folder)
    )
    caplog.clear()
    int8.warm_up()
    assert int8.info.precision == "INT8"
    assert "126x126 AbsRel 0.0" in caplog.text
    assert 0 < mean_absrel(int8.forward(batch).depth[0], expected[0]) < 0.05
    assert not (tmp_path / "onnx").exists(), "what was exported beforehand is used"
    with pytest.raises(StartupError, match="DEPTH_SERVER_INT8_MAX_ABSREL") as caught:
        load_model(
            settings_of(
                tmp_path,
                weights=weights,
                backend="ONNXRuntime",
                precision="INT8",
                onnx_folder=folder,
                int8_max_absrel=1e-6,
            )
        ).warm_up()
    assert caught.value.reason is StartupReason.OUTPUT_MISMATCH


def test_bf16_passes_its_gate_and_can_go_without(weights: Path, tmp_path: Path) -> None:
    load_model(settings_of(tmp_path, weights=weights, precision="BF16")).warm_up()
    assert len(list((tmp_path / "golden").glob("*.npy"))) == 2
    strict = settings_of(tmp_path, weights=weights, precision="BF16", golden_max_absrel=1e-7)
    with pytest.raises(StartupError, match="AbsRel"):
        load_model(strict).warm_up()
    load_model(strict.model_copy(update={"golden_check": False})).warm_up()


def test_licence_is_asked_before_the_weights_are_looked_for(tmp_path: Path) -> None:
    values = {"weights": tmp_path / "missing.pth", "model_family": "DepthAnythingV2", "model_variant": "ViTL14"}
    with pytest.raises(StartupError) as refused:
        load_model(settings_of(tmp_path, **values))
    assert refused.value.reason is StartupReason.LICENSE_NOT_ACCEPTED
    with pytest.raises(StartupError) as accepted:
        load_model(settings_of(tmp_path, **values, license_accepted="CC-BY-NC-4.0"))
    assert accepted.value.reason is StartupReason.WEIGHTS_NOT_FOUND


def test_output_is_not_touched_by_the_verification(weights: Path, tmp_path: Path) -> None:
    batch = golden_batch(Size(126, 168))
    plain, checked = (load_model(settings_of(tmp_path, weights=weights, golden_check=check)) for check in (False, True))
    assert np.array_equal(plain.forward(batch).depth, checked.forward(batch).depth)
