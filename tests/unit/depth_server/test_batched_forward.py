"""A batch gives each of its images the depth that it gets alone."""

import numpy as np
import pytest
import torch

from depth_server.model.random_weights import write_random_weights
from depth_server.model.variants import ModelFamily, ModelVariant, model_spec
from depth_server.model.weights import load_depth_anything
from depth_server.settings import Precision
from depth_server.torch_model import TorchDepthModel


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TorchDepthModel:
    path = tmp_path_factory.mktemp("weights") / "vits.safetensors"
    write_random_weights(ModelVariant.VITS14, path, seed=3)
    loaded = load_depth_anything(path, model_spec(ModelFamily.DEPTH_ANYTHING_V2, ModelVariant.VITS14))
    return TorchDepthModel(loaded, torch.device("cpu"), Precision.FP32, 126)


def test_batches_equal_single_images(model: TorchDepthModel) -> None:
    images = np.random.Generator(np.random.PCG64(1)).standard_normal((3, 3, 126, 182), dtype=np.float32)
    together = model.forward(images).depth
    assert together.shape == (3, 126, 182)
    assert together.dtype == np.float32
    for image, depth in zip(images, together, strict=True):
        alone = model.forward(image[np.newaxis]).depth[0]
        assert np.abs(alone - depth).max() <= 1e-4 * np.abs(alone).max()
