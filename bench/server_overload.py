"""How the server behaves with a third, all and three times of the load that it can serve.

    python -m bench.server_overload [--out bench/results/server_overload.json]

The model is a fake of known service time, so that what is measured is queueing, batching and admission: a batch of N
takes `fixed + per-image * N` seconds and uses no CPU; by default 20 times what ViT-L takes on one H200. Arrivals are
open-loop (Poisson): a slow server does not slow them down. Server and clients share the machine and talk over loopback.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
import cv2
import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
LISTENING = re.compile(r"listening on (http://\S+)")
START_SECONDS = 60.0
MAX_BATCH = 8


@dataclass(frozen=True)
class Scenario:
    """What is run.

    Attributes:
        fixed_seconds: Cost of a batch.
        seconds_per_image: Cost of each image in it.
        slo_seconds: The server's SLO.
        processes: Engine processes; 0 runs the model in the server's.
        seconds: Length of each phase.
        seed: Of the arrivals.
    """

    fixed_seconds: float
    seconds_per_image: float
    slo_seconds: float
    processes: int
    seconds: float
    seed: int

    @property
    def capacity(self) -> float:
        """Images per second in batches of 8, on all engines."""
        return MAX_BATCH / (self.fixed_seconds + MAX_BATCH * self.seconds_per_image) * max(self.processes, 1)


@dataclass
class Phase:
    """What one phase saw; latencies in seconds, memory of the whole process tree in bytes."""

    name: str
    offered_per_second: float
    goodput_per_second: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    admitted_p50: float = math.nan
    admitted_p99: float = math.nan
    refused_p50: float = math.nan
    refused_p99: float = math.nan
    memory_start: int = 0
    memory_peak: int = 0
    server_cpu_seconds: float = 0.0


def quantile(values: Sequence[float], share: float) -> float:
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(math.ceil(share * len(ordered)), len(ordered)) - 1]


def photo() -> bytes:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    encoded, buffer = cv2.imencode(".jpg", cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC))
    if not encoded:
        raise RuntimeError("OpenCV could not encode the photo")
    return bytes(buffer)


def start_server(scenario: Scenario, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    options = {
        "processes": scenario.processes,
        "fixed-seconds": scenario.fixed_seconds,
        "seconds-per-image": scenario.seconds_per_image,
    }
    command = [sys.executable, "-m", "bench.fake_server", *(f"--{name}={value}" for name, value in options.items())]
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)


@asynccontextmanager
async def running_server(scenario: Scenario, folder: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEPTH_SERVER_")} | {
        "PYTHONPATH": f"{ROOT / 'inference_server'}{os.pathsep}{ROOT}",
        "DEPTH_SERVER_PORT": "0",
        "DEPTH_SERVER_WEIGHTS": "none.safetensors",
        "DEPTH_SERVER_INPUT_SIZE": "252",
        "DEPTH_SERVER_SLO_SECONDS": str(scenario.slo_seconds),
        "DEPTH_SERVER_MAX_QUEUED_REQUESTS": "1000",
        "DEPTH_SERVER_MAX_QUEUED_WORK_UNITS": "512",
        "DEPTH_SERVER_DRAIN_DELAY_SECONDS": "0",
    }
    log = folder / "server.log"
    server = start_server(scenario, environment, log)
    try:
        yield await wait_for_ready(server, log.read_text), psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(START_SECONDS)


async def wait_for_ready(server: subprocess.Popen[bytes], read_log: Callable[[], str]) -> str:
    async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
        while True:
            await asyncio.sleep(0.1)
            if server.poll() is not None:
                raise RuntimeError(f"the server ended:\n{read_log()}")
            match = LISTENING.search(read_log())
            if match:
                async with session.get(f"{match[1]}/readyz") as answer:
                    if answer.status == 200:
                        return match[1]


class Load:
    """Sends requests and remembers how they ended."""

    def __init__(self, session: aiohttp.ClientSession, url: str, image: bytes) -> None:
        self._session = session
        self._url = f"{url}/predict"
        boundary = "bench"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        self._body = head.encode() + image + f"\r\n--{boundary}--\r\n".encode()
        self._headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        self.answers: list[tuple[str, float]] = []

    async def send(self) -> None:
        began = time.perf_counter()
        try:
            async with self._session.post(self._url, data=self._body, headers=self._headers) as answer:
                body = await answer.read()
                status = str(answer.status)
                if answer.status == 429:
                    status = f"429 {json.loads(body)['type'].rsplit(':', 1)[1]}"
        except aiohttp.ClientError as error:
            status = type(error).__name__
        self.answers.append((status, time.perf_counter() - began))

    async def send_open_loop(self, rate: float, seconds: float, seed: int) -> None:
        arrivals = random.Random(seed)  # noqa: S311 no secret
        began, at = time.perf_counter(), 0.0
        async with asyncio.TaskGroup() as requests:
            while (at := at + arrivals.expovariate(rate)) < seconds:
                await asyncio.sleep(max(began + at - time.perf_counter(), 0))
                requests.create_task(self.send())

    async def send_one_by_one(self, count: int) -> None:
        for _ in range(count):
            await self.send()


def usage(server: psutil.Process) -> tuple[int, float]:
    """Memory and CPU seconds of the whole process tree."""
    tree = [server, *server.children(recursive=True)]
    times = [process.cpu_times() for process in tree]
    return sum(process.memory_info().rss for process in tree), sum(used.user + used.system for used in times)


async def watch_memory(server: psutil.Process) -> int:
    """Look at the memory until cancelled, and return the most that was seen."""
    most = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            most = max(most, usage(server)[0])
            await asyncio.sleep(0.2)
    return most


async def run_phase(
    name: str, url: str, server: psutil.Process, scenario: Scenario, rate: float, image: bytes
) -> Phase:
    """Offer requests at a rate; 0 sends 30 one after the other."""
    phase = Phase(name, rate)
    phase.memory_start, cpu = usage(server)
    memory = asyncio.create_task(watch_memory(server))
    # A connection per request in flight, as from many clients.
    connector = aiohttp.TCPConnector(limit=0)
    began = time.perf_counter()
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        load = Load(session, url, image)
        if rate:
            await load.send_open_loop(rate, scenario.seconds, scenario.seed)
        else:
            await load.send_one_by_one(30)
    elapsed = time.perf_counter() - began
    memory.cancel()
    phase.memory_peak = max(await memory, phase.memory_start)
    phase.server_cpu_seconds = usage(server)[1] - cpu
    admitted = [seconds for status, seconds in load.answers if status == "200"]
    refused = [seconds for status, seconds in load.answers if status.startswith("429")]
    # The last accepted ones finish after the arrivals have ended: their time counts.
    phase.goodput_per_second = sum(seconds <= scenario.slo_seconds for seconds in admitted) / elapsed
    for status, _ in load.answers:
        phase.statuses[status] = phase.statuses.get(status, 0) + 1
    phase.admitted_p50, phase.admitted_p99 = quantile(admitted, 0.5), quantile(admitted, 0.99)
    phase.refused_p50, phase.refused_p99 = quantile(refused, 0.5), quantile(refused, 0.99)
    return phase


async def run(scenario: Scenario) -> list[Phase]:
    image = photo()
    capacity = scenario.capacity
    # At the end the first overload once more: memory that grows shows there.
    plan = {
        "single": 0.0,
        "30 % load": 0.3 * capacity,
        "full load": capacity,
        "3x overload": 3 * capacity,
        "3x overload again": 3 * capacity,
    }
    with tempfile.TemporaryDirectory() as folder:
        async with running_server(scenario, Path(folder)) as (url, server):
            await run_phase("warm-up", url, server, scenario, 0.0, image)
            return [await run_phase(name, url, server, scenario, rate, image) for name, rate in plan.items()]


def table(scenario: Scenario, phases: Sequence[Phase]) -> str:
    milliseconds = (1000 * scenario.fixed_seconds, 1000 * scenario.seconds_per_image, 1000 * scenario.slo_seconds)
    head = "A batch of N takes {:g} + {:g} * N ms; SLO {:g} ms".format(*milliseconds)
    columns = (
        "phase", "offered/s", "goodput/s", "admitted p50 ms", "p99 ms", "refused p50 ms", "p99 ms", "statuses",
        "MB before", "peak", "CPU s",
    )  # fmt: skip
    lines = [
        f"{head}; capacity {scenario.capacity:.1f}/s; {scenario.processes or 'no'} engine processes.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for phase in phases:
        numbers = (phase.admitted_p50, phase.admitted_p99, phase.refused_p50, phase.refused_p99)
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(phase.statuses.items()))
        lines.append(
            f"| {phase.name} | {phase.offered_per_second or math.nan:.1f} | {phase.goodput_per_second:.1f} | "
            + " | ".join(f"{1000 * number:.0f}" if math.isfinite(number) else "-" for number in numbers)
            + f" | {statuses} | {phase.memory_start / 1e6:.0f} | {phase.memory_peak / 1e6:.0f}"
            + f" | {phase.server_cpu_seconds:.1f} |"
        )
    return "\n".join(lines).replace("| nan |", "| - |")


def verdicts(scenario: Scenario, phases: Sequence[Phase]) -> dict[str, tuple[float, float, bool]]:
    """Compare with what is wanted: measured, limit, kept."""
    named = {phase.name: phase for phase in phases}
    peak = max(phase.goodput_per_second for phase in phases)
    overload = named["3x overload"]
    growth = named["3x overload again"].memory_peak / overload.memory_peak
    slowdown = named["30 % load"].admitted_p50 / named["single"].admitted_p50
    return {
        "goodput under 3x overload / peak": (ratio := overload.goodput_per_second / peak, 0.9, ratio >= 0.9),
        "admitted p99 under 3x overload, s": (
            overload.admitted_p99,
            scenario.slo_seconds,
            overload.admitted_p99 <= scenario.slo_seconds,
        ),
        "refused p99 under 3x overload, s": (overload.refused_p99, 0.02, overload.refused_p99 <= 0.02),
        "peak memory of the second overload / of the first": (growth, 1.05, growth <= 1.05),
        "p50 at 30 % load / single": (slowdown, 1.2, slowdown <= 1.2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixed-ms", type=float, default=43.0)
    parser.add_argument("--per-image-ms", type=float, default=61.0)
    parser.add_argument("--slo-ms", type=float, default=2000.0)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of a phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the result as JSON")
    options = parser.parse_args()
    scenario = Scenario(
        options.fixed_ms / 1000,
        options.per_image_ms / 1000,
        options.slo_ms / 1000,
        options.processes,
        options.seconds,
        options.seed,
    )
    phases = asyncio.run(run(scenario))
    checks = verdicts(scenario, phases)
    print(table(scenario, phases))
    print()
    for name, (value, limit, kept) in checks.items():
        print(f"{'kept  ' if kept else 'MISSED'} {name}: {value:.3g} (limit {limit:g})")
    if options.out:
        result = {
            "scenario": asdict(scenario) | {"capacity_per_second": scenario.capacity},
            "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
            "phases": [asdict(phase) for phase in phases],
            "checks": {name: {"value": v, "limit": limit, "kept": kept} for name, (v, limit, kept) in checks.items()},
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
