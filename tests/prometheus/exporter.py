"""Pods on loopback that export the server's metrics as exact functions of time, and a Prometheus that scrapes them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import yaml
from aiohttp import web

from localcluster import binaries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SCRAPE_SECONDS = 0.5
WINDOW_SECONDS = 5
"""Ten scrapes."""

T = TypeVar("T")


@dataclass
class Pod:
    """One pod's metrics: counters grow at a rate, latencies fall into one bucket."""

    name: str
    service: str = "depth"
    namespace: str = "vision"
    success_rate: float = 0.0
    rejected_rate: float = 0.0
    invalid_rate: float = 0.0
    worker_busy: float = 0.0
    gpu_busy: float | None = None
    queue: int = 0
    warm: bool = True
    up: bool = True
    started: float = field(default_factory=time.monotonic)

    def exposition(self) -> str:
        lines = ['depth_server_info{version="0",model="m",device="cpu",precision="FP32"} 1']
        if not self.warm:
            return "\n".join(lines) + "\n"
        seconds = time.monotonic() - self.started
        rates = {"success": self.success_rate, "rejected": self.rejected_rate, "invalid": self.invalid_rate}
        lines += [f'depth_server_requests_total{{outcome="{name}"}} {seconds * rate}' for name, rate in rates.items()]
        lines += [
            f"depth_server_images_total {seconds * self.success_rate}",
            f"depth_server_worker_busy_seconds_total {seconds * self.worker_busy}",
            f"depth_server_queue_depth {self.queue}",
        ]
        if self.gpu_busy is not None:
            lines.append(f"depth_server_gpu_busy_seconds_total {seconds * self.gpu_busy}")
        observed = seconds * self.success_rate
        lines += self._histogram(
            "depth_server_request_duration_seconds", {"0.1": 0.0, "0.2": observed, "+Inf": observed}
        )
        lines += self._histogram("depth_server_queue_duration_seconds", {"0.01": observed, "+Inf": observed})
        return "\n".join(lines) + "\n"

    @staticmethod
    def _histogram(name: str, buckets: dict[str, float]) -> list[str]:
        return [f'{name}_bucket{{le="{bound}"}} {count}' for bound, count in buckets.items()]

    def job(self, port: int) -> dict[str, object]:
        labels = {"namespace": self.namespace, "pod": self.name, "service": self.service}
        return {
            "job_name": f"{self.namespace}-{self.name}",
            "metrics_path": f"/{self.namespace}/{self.name}",
            "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": labels}],
        }


@contextlib.asynccontextmanager
async def exporter(pods: list[Pod]) -> AsyncIterator[int]:
    """Serve the pods; the port."""
    by_path = {(pod.namespace, pod.name): pod for pod in pods}

    async def metrics(request: web.Request) -> web.Response:
        pod = by_path[request.match_info["namespace"], request.match_info["pod"]]
        if not pod.up:
            return web.Response(status=503)
        return web.Response(text=pod.exposition(), content_type="text/plain")

    application = web.Application()
    application.router.add_get("/{namespace}/{pod}", metrics)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def find_prometheus() -> Path | None:
    """The program from PATH or from the cache of the local cluster; nothing is built here."""
    root = Path(binaries.__file__).parent
    build = binaries.prometheus_build(root)
    found = binaries.on_path(["prometheus"], os.environ.get("PATH", "")) or binaries.in_folder(
        build.folder(binaries.cache_dir(os.environ)), build.programs
    )
    return found["prometheus"] if found else None


@contextlib.asynccontextmanager
async def prometheus(program: Path, folder: Path, jobs: list[dict[str, object]]) -> AsyncIterator[str]:
    """Run Prometheus with the scrape jobs; its address."""
    config = folder / "prometheus.yml"
    scrape = {"scrape_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms", "scrape_timeout": f"{SCRAPE_SECONDS * 1000:.0f}ms"}
    config.write_text(yaml.safe_dump({"global": scrape, "scrape_configs": jobs}))
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(program),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            stdout=output,
            stderr=output,
        )
    try:
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                assert process.returncode is None, log.read_text()
                try:
                    async with session.get(f"http://{address}/-/ready") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            await wait_for(ready, bool, explain=log.read_text)
        yield f"http://{address}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def wait_for(
    probe: Callable[[], Awaitable[T]],
    accept: Callable[[T], bool],
    *,
    timeout_seconds: float = 40.0,
    explain: Callable[[], str] = str,
) -> T:
    """Ask until the answer is accepted; fail with the last answer after the time limit."""
    last: T | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            while not accept(last := await probe()):  # noqa: ASYNC110 - another process changes state, it cannot signal
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_seconds:g} s; last: {last!r}\n{explain()}") from None
    return last
