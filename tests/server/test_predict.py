"""A photograph goes in, a depth map comes out."""

import base64
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import sklearn.datasets
import torch
from numpy.typing import NDArray

from depth_server.model.variants import ModelFamily, ModelVariant, model_spec
from depth_server.model.weights import read_state_dict
from tests.server.conftest import ServerProcess
from tests.unit.depth_server.reference_depth_anything import reference_depth
from tests.unit.depth_server.reference_transform import upstream_preprocess

pytestmark = pytest.mark.server

PHOTO = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"


def predict(server: ServerProcess, data: bytes, **options: Any) -> httpx.Response:
    return httpx.post(server.url + "/predict", files={"file": ("photo.jpg", data, "image/jpeg")}, timeout=60, **options)


def levels_of(body: dict[str, Any]) -> NDArray[np.uint16]:
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(body["depth_map"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert decoded.dtype == np.uint16
    return decoded  # type: ignore[return-value]  # cv2's stubs name a wider type


def upstream_depth(image: NDArray[np.uint8], weights: Path) -> NDArray[np.float32]:
    """What upstream's `infer_image` would give for the photograph and these weights at an input size of 126."""
    spec = model_spec(ModelFamily.DEPTH_ANYTHING_V2, ModelVariant.VITS14)
    pixels = torch.from_numpy(upstream_preprocess(image, 126))[None]
    with torch.inference_mode():
        depth = reference_depth(read_state_dict(weights), spec.family, spec.variant, pixels)
        depth = torch.nn.functional.interpolate(depth[:, None], image.shape[:2], mode="bilinear", align_corners=True)
    result: NDArray[np.float32] = depth[0, 0].numpy()
    return result


def test_photograph_gives_the_depth_that_upstream_computes(server: ServerProcess, weights: Path) -> None:
    url = server.url + "/predict?exact=true"
    response = httpx.post(url, files={"file": PHOTO.read_bytes()}, timeout=60)
    assert response.status_code == 200, response.text
    body = response.json()
    assert set(body) == {
        "depth_map",
        "processing_time",
        "width",
        "height",
        "min",
        "max",
        "kind",
        "unit",
        "model",
        "timings",
    }
    assert (body["width"], body["height"]) == (640, 427)
    assert (body["kind"], body["model"]) == ("relative_inverse", "depth_anything_v2_vits14")
    assert body["unit"] is None
    assert set(body["timings"]) == {"queue", "preprocess", "forward", "postprocess"}
    assert body["processing_time"] > 0
    levels = levels_of(body)
    assert levels.shape == (427, 640)
    assert (levels.min(), levels.max()) == (0, 65535)
    depth = body["min"] + levels / 65535 * (body["max"] - body["min"])
    bgr = cv2.imread(str(PHOTO))
    assert bgr is not None
    expected = upstream_depth(np.ascontiguousarray(bgr[:, :, ::-1]).astype(np.uint8), weights)
    # Half a level of quantisation, and JPEG decoders that differ by a grey value here and there.
    assert np.abs(depth - expected).max() / expected.max() < 0.02
    assert np.abs(depth - expected).mean() / expected.mean() < 0.002


def test_same_photograph_gives_the_same_depth(server: ServerProcess) -> None:
    first, second = (predict(server, PHOTO.read_bytes()).json() for _ in range(2))
    assert first["depth_map"] == second["depth_map"]


def test_chunked_upload_works(server: ServerProcess) -> None:
    request = httpx.Request("POST", server.url, files={"file": PHOTO.read_bytes()})
    body = request.read()

    def chunks() -> Any:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    headers = {"content-type": request.headers["content-type"]}
    response = httpx.post(server.url + "/predict", content=chunks(), headers=headers, timeout=60)
    assert response.status_code == 200, response.text


def test_readiness_tells_what_runs(server: ServerProcess) -> None:
    body = httpx.get(server.url + "/readyz").json()
    assert body["state"] == "Ready"
    assert (body["model"], body["device"], body["precision"]) == ("depth_anything_v2_vits14", "cpu", "FP32")
    assert body["input_size"] == 126
