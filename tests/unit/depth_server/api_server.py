"""The application with a fake model, in this process."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from depth_server.app import create_app, make_admission
from depth_server.batch_queue import BatchPolicy
from depth_server.engine import Forwarded, ModelInfo
from depth_server.health import Health, HealthState
from depth_server.model.variants import ModelVariant
from depth_server.settings import Settings
from depth_server.thread_engine import ThreadEngine

PATIENCE = 20.0
MODEL = "depth_anything_vits14"
DIGEST = "0" * 64


class RedDepthModel:
    """Depth is the network's red channel, so that what comes out can be compared with what went in."""

    def __init__(self) -> None:
        self.info = ModelInfo(MODEL, "relative_inverse", "cpu", "FP32", align_corners=False, weights_sha256=DIGEST)
        self.sizes: list[tuple[int, int]] = []

    def forward(self, pixel_values: NDArray[np.float32]) -> Forwarded:
        self.sizes += [pixel_values.shape[2:]] * len(pixel_values)  # type: ignore[list-item]  # two sides
        return Forwarded(pixel_values[:, 0].copy())

    def warm_up(self) -> None:
        pass


def never(what: object) -> None:
    raise AssertionError(what)


def make_app(model: RedDepthModel | None = None, **settings: Any) -> tuple[FastAPI, Health]:
    fake = model or RedDepthModel()
    small: dict[str, Any] = {"model_variant": ModelVariant.VITS14, "input_size": 126}
    configured = Settings(weights=Path("unused.pth"), **{**small, **settings})
    health = Health()
    engine = ThreadEngine(
        lambda: fake,
        policy=BatchPolicy(),
        max_consecutive_failures=3,
        on_crash=never,
    )
    app = create_app(configured, engine, health, make_admission(configured), on_startup_failure=never)
    return app, health


@asynccontextmanager
async def serving(model: RedDepthModel | None = None, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app, health = make_app(model, **settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://depth")
    async with app.router.lifespan_context(app), client:
        await wait_until(lambda: health.report.state is HealthState.READY)
        yield client


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 what is waited for changes in another thread
            await asyncio.sleep(0.002)


def gradient(width: int = 48, height: int = 32) -> NDArray[np.uint8]:
    """Red grows to the right, and nothing else varies: depth must grow to the right."""
    row = np.linspace(0, 255, width, dtype=np.uint8)
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, :, 0] = row
    return pixels


def encoded(image: Image.Image | NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()
