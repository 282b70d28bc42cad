"""The HTTP side with a fake model: outcomes, bounds, health and metrics."""

import asyncio
import base64
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from depth_server import pipeline
from depth_server.admission import MULTIPART_OVERHEAD_BYTES, Admission
from depth_server.app import create_app, make_admission
from depth_server.batch_queue import BatchPolicy
from depth_server.decode import decode_image
from depth_server.engine import DepthModel
from depth_server.errors import EngineMemoryError, StartupError, StartupReason
from depth_server.health import Health, HealthState
from depth_server.metrics import ServerMetrics
from depth_server.model.variants import ModelFamily, ModelVariant, model_spec
from depth_server.pipeline import EncodedImage, ImagePipeline
from depth_server.settings import Settings
from depth_server.thread_engine import ThreadEngine
from tests.unit.depth_server.fake_model import WAIT_SECONDS, FakeModel
from tests.unit.depth_server.hostile_images import encoded, photo

PHOTO = encoded(photo(), "PNG")


@dataclass
class Server:
    client: httpx.AsyncClient
    model: FakeModel
    health: Health
    engine: ThreadEngine
    failures: list[StartupError]
    app: Any
    admission: Admission

    async def predict(self, data: bytes = PHOTO) -> httpx.Response:
        return await self.client.post("/predict", files={"file": data})

    async def metric(self, name: str) -> float | None:
        """Value of one series, with its labels, or None."""
        text = (await self.client.get("/metrics")).text
        return next((float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + " ")), None)

    async def wait_for_state(self, state: HealthState) -> None:
        await wait_until(lambda: self.health.report.state is state)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110 what is waited for changes in another thread
            await asyncio.sleep(0.002)


@asynccontextmanager
async def serving(
    load: Callable[[], DepthModel] | None = None, model: FakeModel | None = None, **settings: Any
) -> AsyncIterator[Server]:
    fake = model or FakeModel()
    configured = Settings(weights=Path("unused.pth"), input_size=126, **settings)
    health = Health()

    def on_crash(reason: str) -> None:
        health.advance(HealthState.FAILED, reason)

    engine = ThreadEngine(
        load or (lambda: fake),
        policy=BatchPolicy(max_waiting=configured.max_queued_requests, max_batch_size=1),
        max_consecutive_failures=configured.max_consecutive_failures,
        on_crash=on_crash,
    )
    failures: list[StartupError] = []
    admission = make_admission(configured)
    app = create_app(configured, engine, health, admission, on_startup_failure=failures.append)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://depth")
    async with app.router.lifespan_context(app), client:
        try:
            yield Server(client, fake, health, engine, failures, app, admission)
        finally:
            fake.release.set()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        await server.wait_for_state(HealthState.READY)
        yield server


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"] == f"urn:depthserving:problem:{slug}"
    assert body["title"]
    assert body["detail"]
    return body


async def test_answer_has_exactly_the_promised_fields(server: Server) -> None:
    response = await server.predict()
    assert response.status_code == 200
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
    assert (body["width"], body["height"]) == (48, 32)
    assert (body["kind"], body["model"]) == ("relative_inverse", "depth_anything_v2_vits14")
    levels = cv2.imdecode(np.frombuffer(base64.b64decode(body["depth_map"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert levels is not None
    assert (levels.dtype, levels.shape) == (np.uint16, (32, 48))


async def test_openapi_documents_the_body_and_every_answer(server: Server) -> None:
    operation = (await server.client.get("/openapi.json")).json()["paths"]["/predict"]["post"]
    assert operation["requestBody"]["content"]["multipart/form-data"]["schema"]["required"] == ["file"]
    assert {"200", "400", "408", "413", "415", "429", "500", "503", "504"} <= set(operation["responses"])
    assert "499" not in operation["responses"]


async def test_other_paths_and_methods_are_problems_too(server: Server) -> None:
    for response, status in ((await server.client.get("/nothing"), 404), (await server.client.get("/predict"), 405)):
        assert response.status_code == response.json()["status"] == status
        assert response.headers["content-type"] == "application/problem+json"


async def test_requests_are_counted_by_outcome(server: Server) -> None:
    await server.predict()
    await server.predict(b"no image")
    await server.client.post("/predict", json={})
    count = 'depth_server_requests_total{outcome="%s"}'
    assert await server.metric(count % "success") == 1
    assert await server.metric(count % "invalid") == 2
    assert await server.metric(count % "failed") == 0
    assert await server.metric("depth_server_request_duration_seconds_count") == 1
    assert await server.metric("depth_server_images_total") == 1


async def test_announced_and_streamed_bytes_are_bounded() -> None:
    async with serving(max_upload_bytes=20_000, max_inflight_upload_bytes=20_000) as server:
        await server.wait_for_state(HealthState.READY)
        body = assert_problem(await server.predict(bytes(60_000)), 413, "upload-too-large")
        assert body["detail"] == "the upload has more than 20000 bytes"

        async def chunks() -> AsyncIterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
            for _ in range(60):
                yield bytes(1000)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        assert_problem(await server.client.post("/predict", content=chunks(), headers=headers), 413, "upload-too-large")
        assert (await server.predict()).status_code == 200
        assert await server.metric("depth_server_inflight_requests") == 0


async def test_pixels_are_bounded() -> None:
    async with serving(max_pixels=1000) as server:
        await server.wait_for_state(HealthState.READY)
        assert_problem(await server.predict(), 413, "image-too-large")


async def test_full_queue_is_refused_and_load_is_visible() -> None:
    async with serving(max_queued_requests=1) as server:
        await server.wait_for_state(HealthState.READY)
        server.model.hold()
        first = asyncio.create_task(server.predict())
        await wait_until(server.model.entered.is_set)
        second = asyncio.create_task(server.predict())
        await wait_until(lambda: server.engine.waiting == 1)
        refused = await server.predict()
        assert_problem(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert await server.metric("depth_server_inflight_requests") == 2
        assert await server.metric("depth_server_queue_depth") == 1
        # 48x32 at an input size of 126 becomes 196x126 (a tie, to even).
        assert await server.metric("depth_server_work_units_in_flight") == pytest.approx(2 * 196 * 126 / 518**2)
        server.model.release.set()
        assert [(await task).status_code for task in (first, second)] == [200, 200]
        assert await server.metric("depth_server_work_units_in_flight") == 0
        assert await server.metric('depth_server_requests_total{outcome="rejected"}') == 1


async def test_late_request_is_504_and_its_turn_is_skipped() -> None:
    async with serving(request_timeout_seconds=0.3) as server:
        await server.wait_for_state(HealthState.READY)
        server.model.hold()
        answers = await asyncio.gather(server.predict(), server.predict())
        for answer in answers:
            assert_problem(answer, 504, "deadline-exceeded")
        server.model.release.set()
        await wait_until(lambda: server.engine.current_forward_seconds() == 0)
        assert server.model.forwarded == 1
        assert await server.metric('depth_server_requests_total{outcome="failed"}') == 2


async def test_upload_counts_until_the_pool_lets_go_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def blocked(*arguments: Any) -> Any:
        entered.set()
        assert go_on.wait(WAIT_SECONDS)
        return decode_image(*arguments)

    size = 40_000
    limits = {"max_upload_bytes": 60_000, "max_inflight_upload_bytes": 90_000}
    async with serving(codec_threads=1, request_timeout_seconds=0.1, **limits) as server:
        await server.wait_for_state(HealthState.READY)
        monkeypatch.setattr(pipeline, "decode_image", blocked)
        # The first is being decoded, the others wait in the pool's queue: those are gone with their requests.
        for _ in range(3):
            assert_problem(await server.predict(PHOTO.ljust(size)), 504, "deadline-exceeded")
            assert server.admission.inflight == 0
            assert size < server.admission.upload_bytes < size + MULTIPART_OVERHEAD_BYTES
        assert entered.is_set()
        go_on.set()
        await wait_until(lambda: server.admission.upload_bytes == 0)


async def test_call_that_left_the_pools_queue_holds_no_bytes() -> None:
    class Upload(bytearray):
        """Can be referenced weakly, as bytes cannot."""

    go_on = threading.Event()
    gate = Admission(max_requests=1, max_upload_bytes=1, max_inflight_upload_bytes=1)
    with ThreadPoolExecutor(1) as codecs, gate.admit(1) as permit:
        codecs.submit(go_on.wait, WAIT_SECONDS)
        images = ImagePipeline(
            settings=Settings(weights=Path("unused.pth")),
            spec=model_spec(ModelFamily.DEPTH_ANYTHING, ModelVariant.VITL14),
            engine=cast("Any", None),
            metrics=ServerMetrics(CollectorRegistry()),
            codecs=codecs,
        )
        upload = Upload(1)
        reference = weakref.ref(upload)
        preparation = images._begin([EncodedImage(cast("Any", upload))], type, permit)
        del upload
        preparation.cancel()
        await wait_until(lambda: reference() is None)
        go_on.set()


async def test_slow_upload_is_408() -> None:
    async with serving(upload_timeout_seconds=0.1) as server:
        await server.wait_for_state(HealthState.READY)

        async def stalling() -> AsyncIterator[bytes]:
            yield b"--x\r\n"
            await asyncio.Event().wait()

        headers = {"content-type": "multipart/form-data; boundary=x"}
        assert_problem(await server.client.post("/predict", content=stalling(), headers=headers), 408, "upload-timeout")


async def test_client_that_leaves_costs_no_forward_pass(server: Server) -> None:
    server.model.hold()
    first = asyncio.create_task(server.predict())
    await wait_until(server.model.entered.is_set)
    form = httpx.Request("POST", "http://depth/predict", files={"file": PHOTO})
    messages = [
        {"type": "http.request", "body": form.read(), "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        if len(messages) == 1:
            await wait_until(lambda: server.engine.waiting == 1)
        return messages.pop(0)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(key.lower(), value) for key, value in form.headers.raw],
        "server": ("depth", 80),
        "client": ("127.0.0.1", 1),
    }
    await server.app(scope, receive, send)
    assert server.engine.waiting == 0
    server.model.release.set()
    assert (await first).status_code == 200
    assert server.model.forwarded == 1
    assert await server.metric('depth_server_requests_total{outcome="abandoned"}') == 1
    assert await server.metric('depth_server_requests_total{outcome="invalid"}') == 0


async def test_lack_of_memory_is_429(server: Server) -> None:
    def no_memory(_: Any) -> Any:
        raise EngineMemoryError("no memory on cuda for an input of 182x126 pixels")

    server.model.behaviour = no_memory
    response = await server.predict()
    assert_problem(response, 429, "out-of-memory")
    assert response.headers["retry-after"] == "5"


async def test_non_finite_depth_is_500_not_a_black_picture(server: Server) -> None:
    server.model.behaviour = lambda pixels: np.full(pixels.shape[1:], np.nan, dtype=np.float32)
    assert_problem(await server.predict(), 500, "non-finite-depth")
    assert await server.metric('depth_server_requests_total{outcome="failed"}') == 1
    assert (await server.client.get("/healthz")).status_code == 200


async def test_crashed_engine_fails_the_probes() -> None:
    async with serving(max_consecutive_failures=1) as server:
        await server.wait_for_state(HealthState.READY)

        def fail(_: Any) -> Any:
            raise RuntimeError("an illegal memory access was encountered")

        server.model.behaviour = fail
        assert_problem(await server.predict(), 500, "forward-failed")
        await server.wait_for_state(HealthState.FAILED)
        for path in ("/healthz", "/readyz"):
            body = assert_problem(await server.client.get(path), 503, "not-ready")
            assert body["state"] == "Failed"
            assert "crashed" in body["detail"]
        assert_problem(await server.predict(), 503, "not-ready")


async def test_stuck_forward_pass_fails_liveness() -> None:
    async with serving(max_forward_seconds=0.01) as server:
        await server.wait_for_state(HealthState.READY)
        server.model.hold()
        request = asyncio.create_task(server.predict())
        await wait_until(lambda: server.engine.current_forward_seconds() > 0.01)
        assert "has been running" in assert_problem(await server.client.get("/healthz"), 503, "not-ready")["detail"]
        server.model.release.set()
        assert (await request).status_code == 200
        assert (await server.client.get("/healthz")).json() == {"state": "Ready"}


class SlowToWarmUp(FakeModel):
    """Holds its warm-up until released."""

    def warm_up(self) -> None:
        assert self.release.wait(WAIT_SECONDS)


async def test_load_is_invisible_until_warm() -> None:
    model = SlowToWarmUp()
    model.hold()
    async with serving(model=model) as server:
        await server.wait_for_state(HealthState.WARMING_UP)
        assert (await server.client.get("/healthz")).json() == {"state": "WarmingUp"}
        response = await server.client.get("/readyz")
        assert assert_problem(response, 503, "not-ready")["state"] == "WarmingUp"
        assert_problem(await server.predict(), 503, "not-ready")
        text = (await server.client.get("/metrics")).text
        names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
        assert names == {"depth_server_info"}
        model.release.set()
        await server.wait_for_state(HealthState.READY)
        assert await server.metric('depth_server_requests_total{outcome="unavailable"}') == 1


async def test_draining_is_unready_but_still_serves(server: Server) -> None:
    server.health.advance(HealthState.DRAINING, "the process was told to stop")
    assert assert_problem(await server.client.get("/readyz"), 503, "not-ready")["state"] == "Draining"
    assert (await server.client.get("/healthz")).status_code == 200
    assert (await server.predict()).status_code == 200


async def test_readiness_tells_what_runs(server: Server) -> None:
    body = (await server.client.get("/readyz")).json()
    assert body["state"] == "Ready"
    assert (body["device_requested"], body["device"], body["precision"]) == ("auto", "cpu", "FP32")


async def test_failed_start_is_reported() -> None:
    def load() -> DepthModel:
        raise StartupError(StartupReason.WEIGHTS_NOT_FOUND, "/weights/a.pth does not exist")

    async with serving(load) as server:
        await wait_until(lambda: bool(server.failures))
        assert server.failures[0].termination_message() == "WeightsNotFound: /weights/a.pth does not exist"
        assert (await server.client.get("/healthz")).status_code == 503


async def test_unexpected_failure_to_start_is_reported_too() -> None:
    def load() -> DepthModel:
        raise ZeroDivisionError

    async with serving(load) as server:
        await wait_until(lambda: bool(server.failures))
        assert server.failures[0].reason is StartupReason.INTERNAL_ERROR
