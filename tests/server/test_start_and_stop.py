"""What a pod's life looks like from outside: probes while loading, reasons for not starting, draining."""

import hashlib
import socket
import threading
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import StartServer, wait_until
from tests.unit.depth_server.hostile_images import encoded, photo

pytestmark = pytest.mark.server


def test_probes_answer_while_the_weights_load(start_server: StartServer) -> None:
    process = start_server(DEVICE="auto")
    url = process.wait_for_port()
    # Importing torch alone takes seconds, so the first answers come long before readiness.
    assert httpx.get(url + "/healthz", timeout=60).status_code == 200
    response = httpx.get(url + "/readyz", timeout=60)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["state"] in {"Starting", "WarmingUp"}
    refused = httpx.post(url + "/predict", files={"file": encoded(photo(), "PNG")}, timeout=60)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert "depth_server_requests_total" not in httpx.get(url + "/metrics", timeout=60).text
    process.wait_for_ready()
    assert "depth_server_requests_total" in httpx.get(url + "/metrics").text
    ready = httpx.get(url + "/readyz").json()
    assert ready["device_requested"] == "auto"
    if ready["device"] == "cpu":
        assert "WARNING" in process.log
        assert "auto found no CUDA device" in process.log
    process.terminate()
    assert process.wait_for_exit() == 0
    assert process.termination_message == ""


def test_stop_while_loading_is_clean(start_server: StartServer) -> None:
    process = start_server()
    process.wait_for_port()
    process.terminate()
    assert process.wait_for_exit() == 0
    assert process.termination_message == ""


def corrupt(folder: Path, name: str) -> str:
    path = folder / name
    path.write_bytes(b"certainly no weights")
    return str(path)


@pytest.mark.parametrize(
    ("variables", "reason", "words"),
    [
        ({"WEIGHTS": "/nonexistent/weights.pth"}, "WeightsNotFound", "/nonexistent/weights.pth does not exist"),
        ({"WEIGHTS": ""}, "InvalidSettings", "DEPTH_SERVER_WEIGHTS is not set"),
        ({"WEIGHTS_SHA256": "0" * 64}, "DigestMismatch", "expected " + "0" * 64),
        ({"MODEL_VARIANT": "ViTB14"}, "LicenseNotAccepted", "DEPTH_SERVER_LICENSE_ACCEPTED=CC-BY-NC-4.0"),
        (
            {"MODEL_VARIANT": "ViTB14", "LICENSE_ACCEPTED": "CC-BY-NC-4.0"},
            "ModelMismatch",
            "holds ViTS14, the declared variant is ViTB14",
        ),
        ({"INPUT_SIZE": "500"}, "InvalidSettings", "DEPTH_SERVER_INPUT_SIZE=500"),
        ({"PRECISION": "FP16"}, "InvalidSettings", "use FP32 or BF16"),
        ({"HOST": "203.0.113.1"}, "InvalidSettings", "cannot listen on 203.0.113.1"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_reason_for_not_starting(start_server: StartServer, variables: dict[str, str], reason: str, words: str) -> None:
    process = start_server(**variables)
    assert process.wait_for_exit() == 1
    assert process.termination_message.startswith(f"{reason}: ")
    assert words in process.termination_message
    assert process.termination_message.count("\n") == 1
    assert f"cannot start: {reason}: " in process.log
    assert "Traceback" not in process.log


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_corrupt_weights_are_a_reason(start_server: StartServer, tmp_path: Path, name: str) -> None:
    process = start_server(WEIGHTS=corrupt(tmp_path, name))
    assert process.wait_for_exit() == 1
    assert process.termination_message.startswith("WeightsInvalid: ")
    assert name in process.termination_message


def test_port_in_use_is_a_reason(start_server: StartServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start_server(PORT=str(taken.getsockname()[1]))
        assert process.wait_for_exit() == 1
    assert "InvalidSettings: cannot listen on 127.0.0.1" in process.termination_message


def test_digest_that_matches_is_accepted_and_drain_finishes_what_was_accepted(
    start_server: StartServer, weights: Path
) -> None:
    process = start_server(WEIGHTS_SHA256=hashlib.sha256(weights.read_bytes()).hexdigest(), INPUT_SIZE="378")
    url = process.wait_for_ready()
    answers: list[int] = []

    def request() -> None:
        answers.append(httpx.post(url + "/predict", files={"file": encoded(photo(), "PNG")}, timeout=120).status_code)

    threads = [threading.Thread(target=request) for _ in range(6)]
    for thread in threads:
        thread.start()

    def accepted() -> bool:
        return "depth_server_inflight_requests 6.0" in httpx.get(url + "/metrics", timeout=60).text or bool(answers)

    wait_until(accepted, "requests to be accepted")
    process.terminate()
    for thread in threads:
        thread.join(120)
    assert answers == [200] * 6
    assert process.wait_for_exit() == 0
    assert "draining" in process.log
    assert "not finished" not in process.log


def test_what_is_not_finished_when_the_drain_ends_gets_503(start_server: StartServer) -> None:
    # An SLO that refuses nobody: the drain is what ends these requests.
    process = start_server(DRAIN_SECONDS="0.01", INPUT_SIZE="518", SLO_SECONDS="1800", JOB_AGEING_SECONDS="3600")
    url = process.wait_for_ready()
    answers: list[httpx.Response] = []

    def request() -> None:
        answers.append(httpx.post(url + "/predict", files={"file": encoded(photo(), "PNG")}, timeout=120))

    threads = [threading.Thread(target=request) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(
        lambda: "depth_server_inflight_requests 6.0" in httpx.get(url + "/metrics", timeout=60).text or bool(answers),
        "requests to be accepted",
    )
    process.terminate()
    for thread in threads:
        thread.join(120)
    assert len(answers) == 6
    refused = [answer.json()["type"] for answer in answers if answer.status_code != 200]
    assert refused
    assert set(refused) == {"urn:depthserving:problem:engine-stopped"}
    assert process.wait_for_exit() == 0
    assert "not finished" in process.log


def test_drain_is_unready_before_the_port_closes(start_server: StartServer) -> None:
    process = start_server(DRAIN_DELAY_SECONDS="3600")
    url = process.wait_for_ready()
    process.terminate()
    wait_until(lambda: httpx.get(url + "/readyz").status_code == 503, "unreadiness")
    assert httpx.get(url + "/readyz").json()["state"] == "Draining"
    assert httpx.get(url + "/healthz").status_code == 200
    assert httpx.post(url + "/predict", files={"file": encoded(photo(), "PNG")}, timeout=60).status_code == 200
    process.terminate()
    assert process.wait_for_exit() == 0
