"""Wrong output is found before the server is ready, and a reference is computed once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from depth_server.engine import Forwarded, ModelInfo, PipelinedModel
from depth_server.errors import EngineMemoryError, StartupError, StartupReason
from depth_server.golden import SMALL_SIZE, GoldenCheck, Predict, golden_batch, golden_image, mean_absrel, verified
from depth_server.preprocess import Size

SQUARE = Size(140, 140)
Depths = NDArray[np.float32]


def predict(pixel_values: Depths) -> Depths:
    depth: Depths = np.abs(pixel_values[:, 0]) + 0.5
    return depth


class Model:
    """Distorts what the reference gives."""

    def __init__(self, distort: Callable[[Depths], Depths] = lambda depth: depth) -> None:
        self.distort = distort
        self.warmed = False
        self.info = ModelInfo("m", "relative_inverse", "cpu", "BF16", align_corners=True)

    def forward(self, pixel_values: Depths) -> Forwarded:
        return Forwarded(self.distort(predict(pixel_values)))

    def warm_up(self) -> None:
        self.warmed = True


class PipelinedFake(Model):
    def stage(self, images: Sequence[Depths]) -> object:
        return images

    def launch(self, staged: object) -> Callable[[], Forwarded]:
        del staged
        return lambda: self.forward(golden_batch(SQUARE))


def check(
    folder: Path, reference: Callable[[], Predict] | None = lambda: predict, *, max_absrel: float = 0.01, key: str = "k"
) -> GoldenCheck:
    return GoldenCheck(sizes=[SMALL_SIZE, SQUARE], reference=reference, max_absrel=max_absrel, key=key, folder=folder)


def nan_somewhere(depth: Depths) -> Depths:
    depth[0, 3, 3] = np.nan
    return depth


def test_equal_output_passes_after_the_warm_up(tmp_path: Path) -> None:
    model = Model()
    verified(model, check(tmp_path)).warm_up()
    assert model.warmed


@pytest.mark.parametrize(
    ("distort", "told"),
    [
        (lambda depth: depth * np.float32(1.05), "0.0500 at 168x126"),
        (lambda depth: depth * 0, "the same depth, 0, everywhere"),
        (lambda depth: depth * 0 + 7, "the same depth, 7, everywhere"),
        (lambda depth: depth[:, ::-1], "AbsRel"),
        (nan_somewhere, "NaN or infinite"),
    ],
)
def test_wrong_output_is_refused(tmp_path: Path, distort: Callable[[Depths], Depths], told: str) -> None:
    with pytest.raises(StartupError, match=told) as caught:
        verified(Model(distort), check(tmp_path)).warm_up()
    assert caught.value.reason is StartupReason.OUTPUT_MISMATCH


def test_gate_is_a_setting(tmp_path: Path) -> None:
    verified(Model(lambda depth: depth * np.float32(1.05)), check(tmp_path, max_absrel=0.06)).warm_up()


def test_reference_is_made_once_per_weights(tmp_path: Path) -> None:
    made: list[str] = []

    def reference() -> Predict:
        made.append("reference")
        return predict

    for key in ("a", "a", "b", "a"):
        verified(Model(), check(tmp_path, reference, key=key)).warm_up()
    assert len(made) == 2


def test_damaged_reference_is_made_again(tmp_path: Path) -> None:
    verified(Model(), check(tmp_path)).warm_up()
    kept = sorted(tmp_path.glob("*.npy"))
    assert len(kept) == 2
    kept[0].write_bytes(b"damaged")
    np.save(kept[1], np.zeros((3, 3), dtype=np.float32))
    verified(Model(), check(tmp_path)).warm_up()
    assert all(np.load(path).size > 9 for path in kept)


def test_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    verified(Model(), check(tmp_path / "file")).warm_up()


def test_model_that_is_its_own_reference_is_still_looked_at(tmp_path: Path) -> None:
    verified(Model(), check(tmp_path, None)).warm_up()
    with pytest.raises(StartupError, match="everywhere"):
        verified(Model(np.zeros_like), check(tmp_path, None)).warm_up()


def test_short_memory_is_told(tmp_path: Path) -> None:
    def distort(_: Depths) -> Depths:
        message = "no memory"
        raise EngineMemoryError(message)

    with pytest.raises(StartupError) as caught:
        verified(Model(distort), check(tmp_path)).warm_up()
    assert caught.value.reason is StartupReason.OUT_OF_MEMORY


def test_pipelined_model_stays_one(tmp_path: Path) -> None:
    pipelined = verified(PipelinedFake(), check(tmp_path))
    assert isinstance(pipelined, PipelinedModel)
    assert pipelined.launch(pipelined.stage([]))().depth.shape == (1, 140, 140)
    assert not isinstance(verified(Model(), check(tmp_path)), PipelinedModel)


def test_image_is_the_same_everywhere_and_has_edges() -> None:
    image = golden_image(SMALL_SIZE)
    assert image.shape == (126, 168, 3)
    assert np.array_equal(image, golden_image(SMALL_SIZE))
    assert image.std() > 30
    assert golden_batch(SMALL_SIZE).shape == (1, 3, 126, 168)


@given(arrays(np.float32, (4, 5), elements=st.floats(0, 1000, width=32)), st.floats(0, 2))
def test_absrel_of_a_scaled_map_is_at_most_the_scale(depth: Depths, scale: float) -> None:
    error = mean_absrel((depth * scale).astype(np.float32), depth)
    assert 0 <= error <= abs(scale - 1) + 1e-4
    assert mean_absrel(depth, depth) == 0
