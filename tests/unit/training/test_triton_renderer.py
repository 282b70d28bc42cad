"""The kernel against the reference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.demo_weights import reference_renderer
from training.demo_weights.scenes import sample_scenes

ROOT = Path(__file__).resolve().parents[3]

COMPARISON = """
import sys
import torch
from tests.unit.training.scene_tables import camera, primitive
from training.demo_weights import columns as col, reference_renderer, triton_renderer
table = torch.cat([
    primitive(col.BOX, (0, -2, 0), (500, 0.5, 500)),
    primitive(col.ELLIPSOID, (0.4, 0, 4), (1, 1, 1), cut=0.4),
    primitive(col.CONE, (-1, 0, 5), (1, 1.5, 1)),
    primitive(col.CYLINDER, (0.2, 0, 3), (0.2, 2, 0.2)),
], 1)
scenes = camera()
scenes[:, col.COUNT], scenes[:, col.MIRROR], scenes[:, col.CLOUDS] = 4, 0.5, 0.6
rgb, inverse = triton_renderer.render(table, scenes, 16, 18)
expected_rgb, expected = reference_renderer.render(table, scenes, 16, 18)
torch.testing.assert_close(inverse, expected, rtol=1e-3, atol=1e-4)
off = ((rgb - expected_rgb).abs().amax(1) > 0.02).float().mean().item()
sys.exit(f"{off:.1%} of the pixels differ" if off > 0.01 else 0)
"""


def test_the_interpreted_kernel_agrees_with_the_reference() -> None:
    """Triton's interpreter runs the kernel without a GPU; it must be chosen before the kernel is defined."""
    pytest.importorskip("triton")
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPARISON], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_compiled_kernel_agrees_with_the_reference() -> None:
    from training.demo_weights import triton_renderer  # noqa: PLC0415 Triton compiles only where there is a GPU

    batch = sample_scenes(16, torch.Generator().manual_seed(5)).to("cuda")
    rgb, inverse = triton_renderer.render(batch.primitives, batch.scenes, 64, 80)
    expected_rgb, expected = reference_renderer.render(batch.primitives, batch.scenes, 64, 80)
    # Rounding differs where floor() meets a cell's edge, so single pixels may.
    assert ((inverse - expected).abs() > 1e-3 * (expected + 1e-3)).float().mean() < 1e-3
    assert ((rgb - expected_rgb).abs().amax(1) > 0.02).float().mean() < 2e-3
