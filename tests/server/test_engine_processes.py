"""Two engine processes behind real sockets: one is killed, the server is told to stop, the server is killed."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
import pytest

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
TIMEOUT = 120.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > limit:
            pytest.fail(f"waited {TIMEOUT:g} s for {what}")
        time.sleep(0.02)


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path

    def engines(self) -> list[psutil.Process]:
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if "depth_server.engine_process" in child.cmdline()
        ]

    def readiness(self) -> httpx.Response:
        return self.client.get("/readyz")

    def predict(self) -> httpx.Response:
        return self.client.post("/predict", files={"file": PHOTO})

    def metric(self, name: str) -> float:
        lines = self.client.get("/metrics").text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " ")), 0.0)


def photo() -> bytes:
    encoded, buffer = cv2.imencode(".png", np.zeros((126, 126, 3), dtype=np.uint8))
    assert encoded
    return bytes(buffer)


PHOTO = photo()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    log = tmp_path / "log.txt"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPTH_SERVER_")} | {
        "PYTHONPATH": f"{ROOT / 'inference_server'}{os.pathsep}{ROOT}",
        "DEPTH_SERVER_PORT": "0",
        "DEPTH_SERVER_WEIGHTS": "none.safetensors",
        "DEPTH_SERVER_INPUT_SIZE": "126",
        "DEPTH_SERVER_MAX_BATCH_SIZE": "1",
        "DEPTH_SERVER_CALIBRATION_SECONDS": "0",
        "DEPTH_SERVER_DRAIN_DELAY_SECONDS": "0",
        "DEPTH_SERVER_SLO_SECONDS": "100",
        "DEPTH_SERVER_JOB_AGEING_SECONDS": "200",
        "DEPTH_SERVER_ENGINE_RESTART_SECONDS": "0.5",
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.fake_server", "--processes", "2", "--fixed-seconds", "0.5"],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
    client = httpx.Client(timeout=TIMEOUT)
    try:
        wait_until(lambda: "listening on" in log.read_text() or process.poll() is not None, "the port")
        text = log.read_text()
        assert process.poll() is None, text
        client.base_url = httpx.URL(text.split("listening on ")[1].split()[0])
        made = Server(process, client, log)
        wait_until(lambda: made.readiness().status_code == 200, "readiness")
        yield made
    finally:
        client.close()
        children = psutil.Process(process.pid).children() if process.poll() is None else []
        process.kill()
        process.wait(TIMEOUT)
        psutil.wait_procs(children, TIMEOUT)


def test_a_killed_engine_process_fails_what_it_held_and_the_rest_is_served(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(server.predict) for _ in range(8)]
        wait_until(lambda: server.metric("depth_server_images_total") >= 2, "the first images")
        server.engines()[0].send_signal(signal.SIGKILL)
        statuses = [answer.result().status_code for answer in answers]
    failed = [answer.result() for answer in answers if answer.result().status_code != 200]
    assert set(statuses) == {200, 503}
    # Each process held half of them, and had finished at least one.
    assert 1 <= len(failed) <= 4
    for answer in failed:
        assert answer.headers["retry-after"]
        assert answer.json()["type"] == "urn:depthserving:problem:engine-stopped"
        assert "signal 9" in answer.json()["detail"]
    assert server.readiness().status_code == 200
    assert server.predict().status_code == 200
    wait_until(lambda: len(server.engines()) == 2, "the restart")


def test_readiness_follows_the_engine_processes(server: Server) -> None:
    for engine in server.engines():
        engine.kill()
    wait_until(lambda: server.readiness().status_code == 503, "unreadiness")
    problem = server.readiness().json()
    assert problem["state"] == "WarmingUp"
    assert "signal 9" in problem["detail"]
    assert server.predict().status_code == 503
    assert server.client.get("/healthz").status_code == 200
    wait_until(lambda: server.readiness().status_code == 200, "readiness")
    assert server.predict().status_code == 200
    assert server.process.poll() is None


def test_sigterm_loses_no_accepted_request_and_leaves_no_process(server: Server) -> None:
    engines = server.engines()
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(server.predict) for _ in range(8)]
        wait_until(lambda: server.metric("depth_server_inflight_requests") == 8, "all requests to be accepted")
        server.process.send_signal(signal.SIGTERM)
        statuses = [answer.result().status_code for answer in answers]
    assert statuses == [200] * 8
    assert server.process.wait(TIMEOUT) == 0
    assert not [engine for engine in engines if engine.is_running()]
    assert "Traceback" not in server.log.read_text()


def test_engine_processes_do_not_outlive_a_killed_server(server: Server) -> None:
    engines = server.engines()
    assert len(engines) == 2
    server.process.kill()
    server.process.wait(TIMEOUT)
    _, alive = psutil.wait_procs(engines, TIMEOUT)
    assert not alive
