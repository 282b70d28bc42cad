"""Face blurring in the real server process, with the packaged detector."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from depth_server.access_settings import FaceBlurStyle
from depth_server.centerface import CenterFace, read_packaged_model
from depth_server.faces import blur_boxes, dilate_boxes

pytestmark = pytest.mark.server

PHOTO = (Path(__file__).parents[1] / "data" / "face.jpg").read_bytes()
SECONDS = 60.0


def blurred_photo() -> bytes:
    """What the model should see, as a lossless file."""
    image = np.asarray(Image.open(io.BytesIO(PHOTO)).convert("RGB"))
    detector = CenterFace(read_packaged_model(), max_side=640, threshold=0.2)
    boxes = dilate_boxes(detector.detect(image), 1.4, *image.shape[:2])
    buffer = io.BytesIO()
    Image.fromarray(blur_boxes(image, boxes, FaceBlurStyle.PIXELATE)).save(buffer, "PNG")
    return buffer.getvalue()


def depth(response: httpx.Response) -> np.ndarray[Any, np.dtype[np.uint16]]:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(response.json()["depth_map"]))), dtype=np.uint16)


def test_the_model_sees_no_face_and_the_answer_tells_how_many_there_were(start_server: Any) -> None:
    server = start_server(FACE_BLUR="pixelate", LOG_LEVEL="DEBUG")
    plain = start_server()
    with httpx.Client(base_url=server.wait_for_ready(), timeout=SECONDS) as client:
        response = client.post("/predict", files={"file": PHOTO})
        assert response.json()["faces_blurred"] == 1
        assert response.headers["x-faces-blurred"] == "1"
        metrics = client.get("/metrics").text
    assert re.search(r"^depth_server_faces_blurred_total 1\.0$", metrics, re.MULTILINE)
    assert re.search(r"^depth_server_face_detection_duration_seconds_count 1\.0$", metrics, re.MULTILINE)
    assert "box" not in server.log.lower()
    with httpx.Client(base_url=plain.wait_for_ready(), timeout=SECONDS) as client:
        expected = client.post("/predict", files={"file": blurred_photo()})
        untouched = client.post("/predict", files={"file": PHOTO})
        assert "faces_blurred" not in expected.json()
        assert "x-faces-blurred" not in expected.headers
        assert "depth_server_faces" not in client.get("/metrics").text
    np.testing.assert_array_equal(depth(response), depth(expected))
    assert not np.array_equal(depth(response), depth(untouched))


def test_an_image_that_cannot_be_looked_at_in_time_is_refused_and_never_reaches_the_model(start_server: Any) -> None:
    server = start_server(FACE_BLUR="solid", FACE_DETECTION_TIMEOUT_SECONDS="0.000001")
    with httpx.Client(base_url=server.wait_for_ready(), timeout=SECONDS) as client:
        response = client.post("/predict", files={"file": PHOTO})
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["type"] == "urn:depthserving:problem:face-detection-failed"
        assert int(response.headers["retry-after"]) >= 1
        metrics = client.get("/metrics").text
        assert client.get("/healthz").status_code == 200
    assert re.search(r"^depth_server_images_total 0\.0$", metrics, re.MULTILINE)


def test_a_detector_that_cannot_be_used_stops_the_server(start_server: Any, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"not a model")
    server = start_server(FACE_BLUR="pixelate", FACE_DETECTOR_MODEL=str(model))
    assert server.wait_for_exit() == 1
    assert server.termination_message.startswith("InvalidSettings: DEPTH_SERVER_FACE_BLUR=pixelate")
    assert str(model) in server.termination_message
