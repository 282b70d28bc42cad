"""Speed and error of the engines on the CPU: PyTorch eager, ONNX Runtime in fp32 and INT8.

    python bench/cpu_engines.py [--weights FILE --family DepthAnythingV2] [--variant ViTS14] [--size 518x518 ...]

Without weights, random ones are used: the speed is the same, and the error is that of untrained weights. All engines
run in one process with the same number of threads, in turns, and the median of all rounds is told. AbsRel and Pearson
compare with PyTorch in fp32 on the golden image.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from depth_server.golden import golden_batch, mean_absrel
from depth_server.model.random_weights import write_random_weights
from depth_server.model.variants import ModelFamily, ModelSpec, ModelVariant, model_spec
from depth_server.model.weights import load_depth_anything
from depth_server.onnx_export import export_folder
from depth_server.onnx_graphs import GraphIdentity, GraphStore
from depth_server.onnx_model import OnnxDepthModel
from depth_server.preprocess import Size

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """One engine at one size."""

    engine: str
    size: str
    median_ms: float
    fastest_ms: float
    speedup: float
    absrel: float
    pearson: float


def eager(path: Path, spec: ModelSpec) -> Predict:
    model = load_depth_anything(path, spec)

    def predict(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            depth: NDArray[np.float32] = model(torch.from_numpy(batch)).numpy()
        return depth

    return predict


def onnx(path: Path, spec: ModelSpec, precision: str, sizes: Sequence[Size], threads: int, folder: Path) -> Predict:
    identity = GraphIdentity.of(spec, "0" * 64, precision)
    export_folder(partial(load_depth_anything, path, spec), identity, sizes, folder / precision)

    def refuse(size: Size, _: Path) -> None:
        raise FileNotFoundError(size)

    model = OnnxDepthModel(
        spec,
        GraphStore(identity, folder, refuse, folder / precision),
        precision=precision,
        threads=threads,
        max_sessions=len(sizes),
        warm_up_sizes=sizes,
    )
    model.warm_up()
    return lambda batch: model.forward(batch).depth


def measure(engines: dict[str, Predict], size: Size, rounds: int) -> list[Row]:
    batch = golden_batch(size)
    depths = {name: predict(batch)[0] for name, predict in engines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        # In turns, so that whatever else the machine does meets all alike.
        for name, predict in engines.items():
            began = time.perf_counter()
            predict(batch)
            seconds[name].append(time.perf_counter() - began)
    first = next(iter(engines))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        Row(
            engine=name,
            size=f"{size.width}x{size.height}",
            median_ms=round(1000 * medians[name], 1),
            fastest_ms=round(1000 * min(seconds[name]), 1),
            speedup=round(medians[first] / medians[name], 2),
            absrel=mean_absrel(depths[name], depths[first]),
            pearson=float(np.corrcoef(depths[name].ravel(), depths[first].ravel())[0, 1]),
        )
        for name in engines
    ]


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| engine | input | median ms | fastest ms | speed-up | AbsRel | Pearson |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.engine} | {row.size} | {row.median_ms:.1f} | {row.fastest_ms:.1f} | {row.speedup:.2f} | "
        f"{row.absrel:.2e} | {row.pearson:.6f} |"
        for row in rows
    ]
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--family", type=ModelFamily, default=ModelFamily.DEPTH_ANYTHING_V2)
    parser.add_argument("--variant", type=ModelVariant, default=ModelVariant.VITS14)
    parser.add_argument("--size", action="append", default=[], metavar="WIDTHxHEIGHT")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("cpu_engines.json"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    sizes = [Size(*map(int, reversed(text.split("x")))) for text in options.size or ["518x518", "686x518"]]
    spec = model_spec(options.family, options.variant)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = options.weights
        if weights is None:
            weights = folder / "random.safetensors"
            write_random_weights(options.variant, weights, 7, options.family)
        engines = {
            "PyTorch eager fp32": eager(weights, spec),
            "ONNX Runtime fp32": onnx(weights, spec, "FP32", sizes, options.threads, folder),
            "ONNX Runtime INT8": onnx(weights, spec, "INT8", sizes, options.threads, folder),
        }
        rows = [row for size in sizes for row in measure(engines, size, options.rounds)]
    result = {
        "model": spec.name,
        "weights": "random" if options.weights is None else options.weights.name,
        "threads": options.threads,
        "rounds": options.rounds,
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{spec.name}, {result['weights']} weights, {options.threads} threads, median of {options.rounds}\n")
    print(table(rows))
    print(f"\n{options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
