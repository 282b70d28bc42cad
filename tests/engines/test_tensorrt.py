"""Engines are built once per GPU, version, graph and shape, with the bounds that were set; the library is a fake.

What stays untested without a GPU is `CudaTensorRtRuntime.build` and `CudaTensorRtEngine.run` on the real library; how
they call it is checked against a stand-in that records.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from depth_server.errors import StartupError, StartupReason
from depth_server.model.variants import ModelFamily
from depth_server.onnx_graphs import GraphIdentity, GraphStore
from depth_server.preprocess import Size
from depth_server.tensorrt_engines import BuildOptions, EngineCache, GpuIdentity, TensorRtEngine
from depth_server.tensorrt_model import TensorRtDepthModel
from depth_server.tensorrt_runtime import CudaTensorRtRuntime, load_runtime
from tests.engines.models import small_spec

SQUARE, WIDE, TALL = Size(126, 126), Size(126, 168), Size(168, 126)
H200, H100 = GpuIdentity("NVIDIA H200", "9.0"), GpuIdentity("NVIDIA H100 80GB HBM3", "9.0")


class FakeEngine:
    def __init__(self, outputs: int) -> None:
        self.outputs = outputs
        self.batches: list[int] = []

    def run(self, pixel_values: NDArray[np.float32]) -> tuple[tuple[NDArray[np.float32], ...], float]:
        self.batches.append(len(pixel_values))
        sky = np.zeros_like(pixel_values[:, 0])
        sky[:, :20] = 1
        return (np.abs(pixel_values[:, 0]), sky)[: self.outputs], 0.5


class FakeRuntime:
    """Its engines are files that name their version."""

    def __init__(self, gpu: GpuIdentity = H200, version: str = "11.4.0.106", outputs: int = 1) -> None:
        self.gpu = gpu
        self.version = version
        self.outputs = outputs
        self.built: list[BuildOptions] = []
        self.engines: list[FakeEngine] = []

    def build(self, graph: Path, options: BuildOptions) -> bytes:
        assert graph.is_file()
        self.built.append(options)
        return f"engine of {self.version}".encode()

    def deserialise(self, engine: bytes) -> TensorRtEngine | None:
        if engine != f"engine of {self.version}".encode():
            return None
        self.engines.append(FakeEngine(self.outputs))
        return self.engines[-1]


def export(size: Size, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{size.width}x{size.height}.onnx").write_bytes(b"graph")


def model(
    folder: Path,
    runtime: FakeRuntime,
    *,
    precision: str = "FP16",
    digest: str = "ab" * 32,
    max_batch: int = 4,
    max_engines: int = 2,
    family: ModelFamily = ModelFamily.DEPTH_ANYTHING_V2,
) -> TensorRtDepthModel:
    spec = small_spec(family)
    return TensorRtDepthModel(
        spec,
        GraphStore(GraphIdentity.of(spec, digest, precision), folder / "onnx", export),
        EngineCache(folder / "tensorrt", runtime),
        max_engines=max_engines,
        max_batch=max_batch,
        workspace_bytes=2**30,
        warm_up_sizes=[SQUARE, WIDE],
    )


def batch_of(size: Size, count: int = 1) -> NDArray[np.float32]:
    return np.random.Generator(np.random.PCG64(1)).random((count, 3, size.height, size.width), dtype=np.float32)


def test_engines_are_built_once_with_the_bounds(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    model(tmp_path, runtime).warm_up()
    assert [options.size for options in runtime.built] == [WIDE, SQUARE]
    options = runtime.built[0]
    assert (options.max_batch, options.workspace_bytes, options.input_name) == (4, 2**30, "pixel_values")
    assert options.shape(3) == (3, 3, 126, 168)
    again = FakeRuntime()
    model(tmp_path, again).warm_up()
    assert again.built == []
    assert not list((tmp_path / "tensorrt").glob(".*partial*"))


@pytest.mark.parametrize(
    "change",
    [
        {"runtime": FakeRuntime(H100)},
        {"runtime": FakeRuntime(version="11.5.0.1")},
        {"precision": "BF16"},
        {"digest": "cd" * 32},
        {"max_batch": 8},
    ],
    ids=["gpu", "version", "precision", "weights", "batch"],
)
def test_what_an_engine_depends_on_is_in_its_key(tmp_path: Path, change: dict[str, Any]) -> None:
    model(tmp_path, FakeRuntime()).warm_up()
    runtime = FakeRuntime()
    runtime = change.pop("runtime", runtime)
    model(tmp_path, runtime, **change).warm_up()
    assert len(runtime.built) == 2
    keys = [json.loads(path.read_text()) for path in (tmp_path / "tensorrt").glob("*.json")]
    assert len(keys) == 4


def test_damaged_engine_is_built_again(tmp_path: Path) -> None:
    model(tmp_path, FakeRuntime()).warm_up()
    for path in (tmp_path / "tensorrt").glob("*.engine"):
        path.write_bytes(b"damaged")
    runtime = FakeRuntime()
    model(tmp_path, runtime).warm_up()
    assert len(runtime.built) == 2


def test_engine_that_never_loads_is_told(tmp_path: Path) -> None:
    class Broken(FakeRuntime):
        def build(self, graph: Path, options: BuildOptions) -> bytes:
            return super().build(graph, options) + b" damaged"

    with pytest.raises(StartupError, match="cannot load the engine that it built") as caught:
        model(tmp_path, Broken()).warm_up()
    assert caught.value.reason is StartupReason.BACKEND_UNAVAILABLE
    assert not list((tmp_path / "tensorrt").glob("*.engine"))


def test_batches_above_the_largest_are_run_in_parts(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    pixels = batch_of(WIDE, 10)
    forwarded = model(tmp_path, runtime).forward(pixels)
    assert runtime.engines[0].batches == [4, 4, 2]
    assert forwarded.gpu_seconds == 1.5
    assert np.array_equal(forwarded.depth, pixels[:, 0])


def test_sky_is_filled(tmp_path: Path) -> None:
    runtime = FakeRuntime(outputs=2)
    depth = model(tmp_path, runtime, family=ModelFamily.DEPTH_ANYTHING_3_MONO).forward(batch_of(WIDE)).depth[0]
    assert np.unique(depth[:20]).size == 1
    assert np.unique(depth[20:]).size > 1


def test_loaded_engines_are_bounded(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    depth_model = model(tmp_path, runtime, max_engines=1)
    for size in (SQUARE, WIDE, SQUARE, TALL):
        depth_model.forward(batch_of(size))
    assert len(runtime.engines) == 4, "each size in turn was loaded, one at a time"
    assert len(runtime.built) == 3, "the square one came from the cache"


class RecordingTensorRt:
    """Stands for the module: every attribute gives a recorder, every call is noted."""

    __version__ = "11.4.0.106"

    def __init__(self, *, parses: bool = True, builds: bool = True) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.parses = parses
        self.builds = builds

    def __getattr__(self, name: str) -> Any:
        return Recorder(self, name)


class Recorder:
    def __init__(self, owner: RecordingTensorRt, path: str) -> None:
        self.owner = owner
        self.path = path

    def __getattr__(self, name: str) -> Any:
        if name == "num_errors":
            return 1
        return Recorder(self.owner, f"{self.path}.{name}")

    def __call__(self, *arguments: Any) -> Any:
        method = self.path.rpartition(".")[2]
        self.owner.calls.append((method, arguments))
        if method == "parse_from_file":
            return self.owner.parses
        if method == "get_error":
            return "unsupported operator"
        if method == "build_serialized_network":
            return b"plan" if self.owner.builds else None
        return Recorder(self.owner, method)

    def __str__(self) -> str:
        return self.path


OPTIONS = BuildOptions(size=WIDE, max_batch=8, workspace_bytes=123, input_name="pixel_values")


def test_builder_is_configured(tmp_path: Path) -> None:
    tensorrt = RecordingTensorRt()
    plan = CudaTensorRtRuntime(tensorrt, torch.device("cuda")).build(tmp_path / "a.onnx", OPTIONS)
    assert plan == b"plan"
    calls = dict(tensorrt.calls)
    assert calls["parse_from_file"] == (str(tmp_path / "a.onnx"),)
    assert calls["create_network"] == (0,), "strong typing needs no flag since 11"
    pool, limit = calls["set_memory_pool_limit"]
    assert (str(pool), limit) == ("MemoryPoolType.WORKSPACE", 123)
    assert [str(flag) for flag in calls["clear_flag"]] == ["BuilderFlag.TF32"]
    assert "set_flag" not in calls, "precision comes from the graph"
    assert calls["set_shape"] == ("pixel_values", (1, 3, 126, 168), (8, 3, 126, 168), (8, 3, 126, 168))


@pytest.mark.parametrize(
    ("tensorrt", "told"),
    [
        (RecordingTensorRt(parses=False), "unsupported operator"),
        (RecordingTensorRt(builds=False), "cannot build"),
    ],
)
def test_failed_build_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensorrt: RecordingTensorRt, told: str
) -> None:
    monkeypatch.setattr(CudaTensorRtRuntime, "gpu", H200)
    with pytest.raises(StartupError, match=told) as caught:
        CudaTensorRtRuntime(tensorrt, torch.device("cuda")).build(tmp_path / "a.onnx", OPTIONS)
    assert caught.value.reason is StartupReason.BACKEND_UNAVAILABLE
    assert "11.4.0.106" in str(caught.value)


def test_missing_package_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(StartupError, match="install tensorrt-cu13") as caught:
        load_runtime(torch.device("cuda"))
    assert caught.value.reason is StartupReason.BACKEND_UNAVAILABLE


def test_old_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__dict__["__version__"] = "10.16.1.11"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(StartupError, match="11 or newer"):
        load_runtime(torch.device("cuda"))
