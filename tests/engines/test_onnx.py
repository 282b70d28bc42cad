"""Exported graphs equal the PyTorch model at square and other sizes; sessions and files are bounded and checked."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from depth_server.engine import PipelinedModel
from depth_server.errors import StartupError, StartupReason
from depth_server.golden import golden_batch, mean_absrel
from depth_server.model.depth_anything import DepthAnything
from depth_server.model.variants import ModelFamily
from depth_server.onnx_export import GraphExporter, export_folder
from depth_server.onnx_graphs import MANIFEST_NAME, WEIGHTS_NAME, GraphIdentity, GraphStore, graph_name
from depth_server.onnx_model import OnnxDepthModel
from depth_server.preprocess import Size
from depth_server.settings import Precision
from tests.engines.models import pixels_of, small_model, small_spec

V2, METRIC, V3 = (
    ModelFamily.DEPTH_ANYTHING_V2,
    ModelFamily.DEPTH_ANYTHING_V2_METRIC_HYPERSIM,
    ModelFamily.DEPTH_ANYTHING_3_METRIC,
)
SQUARE, WIDE, TALL = Size(126, 126), Size(126, 168), Size(182, 126)
DIGEST = "ab" * 32


def loader(family: ModelFamily) -> Callable[[], DepthAnything]:
    return lambda: small_model(family)


@pytest.fixture(scope="module")
def v2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("v2")
    export_folder(loader(V2), GraphIdentity.of(small_spec(V2), DIGEST, "FP32"), [SQUARE, WIDE], folder)
    return folder


def onnx_model(
    family: ModelFamily,
    folder: Path,
    cache: Path,
    *,
    precision: str = "FP32",
    max_sessions: int = 4,
    export: Callable[[Size, Path], None] | None = None,
) -> OnnxDepthModel:
    def refuse(size: Size, _: Path) -> None:
        message = f"nothing was to be exported, but {size} was"
        raise AssertionError(message)

    spec = small_spec(family)
    store = GraphStore(GraphIdentity.of(spec, DIGEST, precision), cache, export or refuse, folder)
    return OnnxDepthModel(
        spec, store, precision=precision, threads=1, max_sessions=max_sessions, warm_up_sizes=[SQUARE]
    )


def assert_parity(model: OnnxDepthModel, reference: DepthAnything, size: Size, batch: int) -> None:
    pixels = pixels_of(size.height, size.width, batch)
    with torch.inference_mode():
        expected = reference(pixels).numpy()
    actual = model.forward(pixels.numpy()).depth
    assert actual.shape == (batch, size.height, size.width)
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_graphs_equal_pytorch(v2_folder: Path, tmp_path: Path) -> None:
    model, reference = onnx_model(V2, v2_folder, tmp_path), small_model(V2)
    model.warm_up()
    for size, batch in ((SQUARE, 1), (WIDE, 1), (WIDE, 3)):
        assert_parity(model, reference, size, batch)
    assert not isinstance(model, PipelinedModel)


def test_sky_head_and_exp_are_exported(tmp_path: Path) -> None:
    export_folder(loader(V3), GraphIdentity.of(small_spec(V3), DIGEST, "FP32"), [WIDE], tmp_path / "graphs")
    model, reference = onnx_model(V3, tmp_path / "graphs", tmp_path / "cache"), small_model(V3)
    pixels = pixels_of(WIDE.height, WIDE.width)
    with torch.inference_mode():
        depth, sky = (values.numpy() for values in reference.forward_maps(pixels))
    assert 10 < np.count_nonzero(sky >= 0.3) < sky.size - 10, "the sky must be somewhere, or filling it proves nothing"
    actual = model.forward(pixels.numpy()).depth
    # A pixel next to the threshold may fall on either side of it.
    clear = np.abs(sky - 0.3) > 1e-3
    with torch.inference_mode():
        expected = reference(pixels).numpy()
    assert np.abs(actual - expected)[clear].max() <= 1e-4 * np.abs(expected).max()
    assert not np.array_equal(expected, depth)


def test_int8_is_near_and_smaller(v2_folder: Path, tmp_path: Path) -> None:
    identity = GraphIdentity.of(small_spec(V2), DIGEST, "INT8")
    export_folder(loader(V2), identity, [WIDE], tmp_path / "graphs")
    model = onnx_model(V2, tmp_path / "graphs", tmp_path / "cache", precision="INT8")
    batch = golden_batch(WIDE)
    with torch.inference_mode():
        expected = small_model(V2)(torch.from_numpy(batch)).numpy()
    actual = model.forward(batch).depth
    assert 1e-5 < mean_absrel(actual[0], expected[0]) < 0.1
    assert np.corrcoef(actual.ravel(), expected.ravel())[0, 1] > 0.99
    sizes = [(folder / WEIGHTS_NAME).stat().st_size for folder in (tmp_path / "graphs", v2_folder)]
    assert sizes[0] < 0.5 * sizes[1]
    assert "DynamicQuantizeLinear" in {
        node.op_type for node in onnx.load(tmp_path / "graphs" / graph_name(WIDE)).graph.node
    }


def test_graph_has_one_layer_normalisation_operator_and_no_cubic_resize(v2_folder: Path) -> None:
    graph = onnx.load(v2_folder / graph_name(WIDE), load_external_data=False).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("LayerNormalization") == 2 * 12 + 4
    modes = {
        attribute.s.decode()
        for node in graph.node
        if node.op_type == "Resize"
        for attribute in node.attribute
        if attribute.name == "mode"
    }
    assert modes == {"linear"}
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param


def test_sizes_share_their_weights(v2_folder: Path) -> None:
    parameters = 4 * sum(value.numel() for value in small_model(V2).state_dict().values())
    assert (v2_folder / WEIGHTS_NAME).stat().st_size < 1.1 * parameters
    for size in (SQUARE, WIDE):
        assert (v2_folder / graph_name(size)).stat().st_size < 0.02 * parameters


def test_missing_size_is_exported_once_into_the_cache(v2_folder: Path, tmp_path: Path) -> None:
    exported: list[Size] = []
    exporter = GraphExporter(loader(V2), Precision.FP32)

    def export(size: Size, folder: Path) -> None:
        exported.append(size)
        exporter(size, folder)

    for _ in range(2):
        model = onnx_model(V2, v2_folder, tmp_path, export=export)
        assert_parity(model, small_model(V2), TALL, 1)
    assert exported == [TALL]


def test_sessions_are_bounded(v2_folder: Path, tmp_path: Path) -> None:
    model = onnx_model(V2, v2_folder, tmp_path, max_sessions=1)
    for size in (SQUARE, WIDE, SQUARE):
        model.forward(pixels_of(size.height, size.width).numpy())
        assert model.sessions == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"weights_sha256": "cd" * 32}, "cdcdcdcdcdcd"),
        ({"precision": "INT8"}, "INT8"),
        ({"model": "depth_anything_vits14"}, "depth_anything_vits14"),
        ({"format": 0}, "format 0"),
    ],
)
def test_graphs_of_something_else_are_refused(
    v2_folder: Path, tmp_path: Path, change: dict[str, str | int], told: str
) -> None:
    manifest = json.loads((v2_folder / MANIFEST_NAME).read_text()) | change
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(StartupError, match=told) as caught:
        onnx_model(V2, tmp_path, tmp_path / "cache")
    assert caught.value.reason is StartupReason.BACKEND_UNAVAILABLE
    assert "export-onnx" in str(caught.value)


def test_folder_without_graphs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no exported graphs"):
        onnx_model(V2, tmp_path, tmp_path / "cache")
    (tmp_path / MANIFEST_NAME).write_text("[]")
    with pytest.raises(StartupError, match="no manifest"):
        onnx_model(V2, tmp_path, tmp_path / "cache")
