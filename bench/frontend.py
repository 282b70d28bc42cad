"""What the front end costs: `python -m bench.frontend`.

A 640x480 JPEG goes in, a base64 16-bit PNG in JSON comes out, and the model takes no time. Measured are answered
requests per CPU second of the server's whole process tree, so that the load generator and other programs on the machine
do not count. All servers are measured in turn, in several rounds of one run; the table tells the median round and the
ratio to the plain FastAPI handler of `bench.naive_server`.

With `--litserve` an environment with LitServe is made in the folder given, by pip, and its server joins the run; if
that fails, the reason is told and the others are measured.
"""

import argparse
import base64
import http.client
import io
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil
import sklearn.datasets
from PIL import Image

ROOT = Path(__file__).parents[1]
START_SECONDS = 60.0
CONNECTIONS = 8
WIDTH, HEIGHT = 640, 480
BOUNDARY = "depthbench"
LITSERVE_PACKAGES = (
    "litserve",
    "fastapi",
    "python-multipart",
    "numpy",
    "opencv-python-headless<6",
    "pillow",
    "uvicorn",
)


@dataclass(frozen=True)
class Candidate:
    """A server and how it is asked."""

    name: str
    command: tuple[str, ...]
    raw: bool = False
    accept: str = "application/json"
    field: str = "file"


@dataclass(frozen=True)
class Round:
    requests: int
    errors: int
    cpu_seconds: float
    seconds: float

    @property
    def per_cpu_second(self) -> float:
        return self.requests / self.cpu_seconds


def photo() -> bytes:
    path = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
    buffer = io.BytesIO()
    Image.open(path).resize((WIDTH, HEIGHT)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def request_of(candidate: Candidate, image: bytes) -> tuple[bytes, dict[str, str]]:
    headers = {"Accept": candidate.accept}
    if candidate.raw:
        return image, {**headers, "Content-Type": "image/jpeg"}
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{candidate.field}"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, {**headers, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Server:
    """A candidate's process tree."""

    def __init__(self, candidate: Candidate, folder: Path) -> None:
        self.candidate = candidate
        self.port = free_port()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DEPTH_SERVER_")},
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": f"{ROOT / 'inference_server'}{os.pathsep}{ROOT}",
            "DEPTH_SERVER_PORT": str(self.port),
            "DEPTH_SERVER_WEIGHTS": "unused",
            "DEPTH_SERVER_LOG_LEVEL": "WARNING",
            "OMP_NUM_THREADS": "1",
        }
        command = [part.format(port=self.port) for part in candidate.command]
        self.log = folder / f"{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def wait(self, body: bytes, headers: dict[str, str]) -> bytes:
        """Return the first answer."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                status, answer = send(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10), body, headers)
            except OSError:
                status = 0
            if status == 200:
                return answer
            time.sleep(0.2)
        raise RuntimeError(f"{self.candidate.name} does not answer:\n{self.log.read_text()[-2000:]}")

    def cpu_seconds(self) -> float:
        root = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
        return sum(item.user + item.system for item in times)

    def stop(self) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in children:
            if child.is_running():
                child.kill()


def send(connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection.request("POST", "/predict", body, headers)
    response = connection.getresponse()
    return response.status, response.read()


def check_answer(candidate: Candidate, answer: bytes) -> None:
    """Every server must have done the job."""
    png = answer if candidate.accept == "image/png" else base64.b64decode(json.loads(answer)["depth_map"])
    levels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if levels is None or levels.dtype != np.uint16 or levels.shape != (HEIGHT, WIDTH) or not np.ptp(levels):
        raise RuntimeError(f"{candidate.name} did not answer with a 16-bit PNG of {WIDTH}x{HEIGHT}")


def measure(server: Server, body: bytes, headers: dict[str, str], seconds: float) -> Round:
    counts, errors = [0] * CONNECTIONS, [0] * CONNECTIONS
    end = time.monotonic() + seconds

    def load(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        while time.monotonic() < end:
            status, _ = send(connection, body, headers)
            if status == 200:
                counts[number] += 1
            else:
                errors[number] += 1
        connection.close()

    began, cpu = time.monotonic(), server.cpu_seconds()
    threads = [threading.Thread(target=load, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Round(sum(counts), sum(errors), server.cpu_seconds() - cpu, time.monotonic() - began)


def litserve_python(folder: Path) -> str:
    """Make an environment with LitServe, or use the one that is there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *LITSERVE_PACKAGES], check=True, timeout=900)
    return str(python)


def candidates(options: argparse.Namespace) -> tuple[list[Candidate], list[str]]:
    ours = (sys.executable, "-m", "bench.fake_server", "--fixed-seconds", "0")
    chosen = [
        Candidate("plain FastAPI handler", (sys.executable, "-m", "bench.naive_server", "--port", "{port}")),
        Candidate("depth-server, form in", ours),
        Candidate("depth-server, raw body in", ours, raw=True),
        Candidate("depth-server, raw body in, PNG out", ours, raw=True, accept="image/png"),
    ]
    if options.litserve is None:
        return chosen, ["LitServe: not asked for (--litserve FOLDER)"]
    try:
        python = litserve_python(options.litserve)
    except (OSError, subprocess.SubprocessError) as error:
        return chosen, [f"LitServe: its environment could not be made: {error}"]
    command = (python, "-m", "bench.litserve_server", "--port", "{port}")
    return [*chosen, Candidate("LitServe, the same handler", command, field="request")], []


def run(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    chosen, skipped = candidates(options)
    image = photo()
    rounds: dict[str, list[Round]] = {}
    servers: list[Server] = []
    try:
        for candidate in chosen:
            server = Server(candidate, folder)
            servers.append(server)
            body, headers = request_of(candidate, image)
            check_answer(candidate, server.wait(body, headers))
        for number in range(options.rounds + 1):
            for server in servers:
                body, headers = request_of(server.candidate, image)
                measured = measure(server, body, headers, options.seconds if number else 1.0)
                if number:  # the first one warms up
                    rounds.setdefault(server.candidate.name, []).append(measured)
    finally:
        for server in servers:
            server.stop()
    return {
        "bench": "frontend",
        "image": {"width": WIDTH, "height": HEIGHT, "bytes": len(image)},
        "connections": CONNECTIONS,
        "seconds": options.seconds,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "skipped": skipped,
        "servers": summarise(rounds),
    }


def summarise(rounds: dict[str, list[Round]]) -> list[dict[str, object]]:
    medians = {name: statistics.median(item.per_cpu_second for item in items) for name, items in rounds.items()}
    baseline = next(iter(medians.values()))
    return [
        {
            "name": name,
            "requests_per_cpu_second": round(medians[name], 1),
            "ratio": round(medians[name] / baseline, 2),
            "errors": sum(item.errors for item in items),
            "rounds": [asdict(item) for item in items],
        }
        for name, items in rounds.items()
    ]


def table(result: dict[str, object]) -> str:
    lines = ["| server | requests per CPU second | ratio | errors |", "|---|---|---|---|"]
    servers = result["servers"]
    assert isinstance(servers, list)
    lines += [
        f"| {item['name']} | {item['requests_per_cpu_second']} | {item['ratio']} | {item['errors']} |"
        for item in servers
    ]
    skipped = result["skipped"]
    assert isinstance(skipped, list)
    return "\n".join([*lines, *(f"\nskipped: {reason}" for reason in skipped)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each round of each server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "frontend.json")
    parser.add_argument("--litserve", type=Path, help="folder of an environment with LitServe; made if it is missing")
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = run(options, options.out.parent)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
