"""Starts the inference server as a process on loopback, as a pod would, and talks to it over real sockets."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import pytest

from depth_server.model.random_weights import write_random_weights
from depth_server.model.variants import ModelVariant

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
STOP_SECONDS = 60.0
LISTENING = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait for a condition in another process; a deadline that passes fails the test with what was awaited."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


@dataclass
class ServerProcess:
    """`python -m depth_server` with settings of its own and its log in a file."""

    folder: Path
    variables: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    url: str = field(init=False, default="")

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    @property
    def termination_message(self) -> str:
        path = self.folder / "termination-message"
        return path.read_text() if path.exists() else ""

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPTH_SERVER_")}
        environment |= {
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": str(ROOT / "inference_server"),
            "DEPTH_SERVER_PORT": "0",
            "DEPTH_SERVER_MODEL_FAMILY": "DepthAnythingV2",
            "DEPTH_SERVER_MODEL_VARIANT": "ViTS14",
            "DEPTH_SERVER_DEVICE": "cpu",
            "DEPTH_SERVER_INPUT_SIZE": "126",
            "DEPTH_SERVER_DRAIN_DELAY_SECONDS": "0",
            # Threads that wait for each other are very slow where other tests use the cores.
            "DEPTH_SERVER_CPU_THREADS": "1",
            "DEPTH_SERVER_TERMINATION_MESSAGE_PATH": str(self.folder / "termination-message"),
            **{f"DEPTH_SERVER_{name}": value for name, value in self.variables.items()},
        }
        with (self.folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "depth_server"], env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(STOP_SECONDS)

    def wait_for_port(self) -> str:
        def listening() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"the server ended with {self.process.returncode}:\n{self.log}")
            return LISTENING.search(self.log) is not None

        wait_until(listening, "the port")
        match = LISTENING.search(self.log)
        assert match is not None
        self.url = match[1]
        return self.url

    def wait_for_ready(self) -> str:
        url = self.url or self.wait_for_port()

        def ready() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"the server ended with {self.process.returncode}:\n{self.log}")
            return client.get("/readyz").status_code == 200

        with httpx.Client(base_url=url, timeout=START_SECONDS) as client:
            wait_until(ready, "readiness")
        return url

    def wait_for_exit(self) -> int:
        return self.process.wait(START_SECONDS)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vits.safetensors"
    write_random_weights(ModelVariant.VITS14, path, seed=0)
    return path


@pytest.fixture(scope="session")
def server(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A ready server, shared by the tests that leave it as they find it."""
    folder = tmp_path_factory.mktemp("server") / "process"
    variables = {"WEIGHTS": str(weights), "MAX_UPLOAD_BYTES": "4000000", "LOG_LEVEL": "DEBUG"}
    with ServerProcess(folder, variables) as process:
        process.wait_for_ready()
        yield process
        assert process.process.poll() is None, process.log


@pytest.fixture
def start_server(tmp_path: Path, weights: Path) -> Iterator[StartServer]:
    """Start servers of one's own; all are gone after the test."""
    started: list[ServerProcess] = []

    def start(**variables: str) -> ServerProcess:
        process = ServerProcess(tmp_path / f"server-{len(started)}", {"WEIGHTS": str(weights), **variables})
        started.append(process.__enter__())
        return process

    yield start
    for process in started:
        process.__exit__()
