"""NVIDIA's client of the Open Inference Protocol, unchanged, against the real server process."""

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import sklearn.datasets
from numpy.typing import NDArray
from PIL import Image
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.server.conftest import ServerProcess

pytestmark = pytest.mark.server

MODEL = "depth_anything_v2_vits14"
PHOTO = (Path(sklearn.datasets.__file__).parent / "images" / "china.jpg").read_bytes()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=60)
    yield client
    client.close()


def image_input(*files: bytes, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_), binary_data=binary)
    return tensor


def outputs(*names: str, binary: bool = True) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def decoded(png: bytes) -> NDArray[np.uint16]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(MODEL)
    assert {item["name"]: item["datatype"] for item in metadata["inputs"]} == {
        "image": "BYTES",
        "pixels": "UINT8",
        "pixel_values": "FP32",
    }


def test_encoded_image_gives_what_predict_gives(client: triton.InferenceServerClient, server: ServerProcess) -> None:
    wanted = outputs("depth", "minimum", "maximum", "depth_png")
    result = client.infer(MODEL, [image_input(PHOTO)], outputs=wanted, request_id="seven")
    depth = result.as_numpy("depth")
    assert result.get_response()["id"] == "seven"
    assert result.get_response()["parameters"]["kind"] == "relative_inverse"
    assert (depth.shape, depth.dtype) == ((1, 427, 640), np.float32)
    assert (depth.min(), depth.max()) == (result.as_numpy("minimum")[0], result.as_numpy("maximum")[0])
    headers = {"content-type": "image/jpeg", "accept": "application/x-npy"}
    answer = httpx.post(server.url + "/predict", content=PHOTO, headers=headers, timeout=60)
    np.testing.assert_allclose(depth[0], np.load(io.BytesIO(answer.content)), rtol=1e-5, atol=1e-6)
    levels = decoded(result.as_numpy("depth_png")[0])
    assert (levels.min(), levels.max()) == (0, 65535)


def test_several_images_and_outputs_in_json(client: triton.InferenceServerClient) -> None:
    result = client.infer(MODEL, [image_input(PHOTO, PHOTO)], outputs=outputs("minimum", "depth", binary=False))
    assert result.as_numpy("depth").shape == (2, 427, 640)
    assert result.as_numpy("minimum").shape == (2,)


def test_pixels(client: triton.InferenceServerClient) -> None:
    with Image.open(io.BytesIO(PHOTO)) as image:
        pixels = np.asarray(image.convert("RGB"))
    tensor = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    by_pixels = client.infer(MODEL, [tensor], parameters={"exact": True, "size": 140}).as_numpy("depth")
    by_file = client.infer(MODEL, [image_input(PHOTO)], parameters={"exact": True, "size": 140}).as_numpy("depth")
    np.testing.assert_allclose(by_pixels, by_file, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_prepared_tensor(client: triton.InferenceServerClient, binary: bool) -> None:
    values = np.random.default_rng(0).standard_normal((1, 3, 126, 140)).astype(np.float32)
    tensor = triton.InferInput("pixel_values", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, binary_data=binary)
    depth = client.infer(MODEL, [tensor]).as_numpy("depth")
    assert depth.shape == (1, 126, 140)
    assert np.isfinite(depth).all()


def test_errors_reach_the_client_in_words(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="'other' is not served here") as caught:
        client.infer("other", [image_input(PHOTO)])
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="not an image") as caught:
        client.infer(MODEL, [image_input(b"no image")])
    assert caught.value.status() == "415"
    with pytest.raises(InferenceServerException, match="'priority' is unknown"):
        client.infer(MODEL, [image_input(PHOTO)], priority=2)
    assert not client.is_model_ready("other")
