"""Wires the application together; its lifespan loads, warms up, serves and closes."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from depth_server.access import add_access_control, build_face_blur
from depth_server.admission import Admission
from depth_server.engine import Engine, ModelInfo
from depth_server.errors import StartupError, StartupReason
from depth_server.health import Health, HealthState
from depth_server.metrics import ServerMetrics
from depth_server.model.variants import model_spec
from depth_server.pipeline import ImagePipeline
from depth_server.prediction import Predictor
from depth_server.preprocess import Size
from depth_server.problems import add_error_handlers
from depth_server.rate_limit import RateLimiter
from depth_server.request_runner import RequestRunner
from depth_server.routes import Services, build_router
from depth_server.settings import Settings
from depth_server.shape_buckets import nearest_bucket
from depth_server.version import server_version

logger = logging.getLogger(__name__)


def make_admission(settings: Settings) -> Admission:
    """Make the bounds: one request is served while `max_queued_requests` wait."""
    return Admission(
        max_requests=settings.max_queued_requests + 1,
        max_upload_bytes=settings.max_upload_bytes,
        max_inflight_upload_bytes=settings.max_inflight_upload_bytes,
        max_work_units=settings.max_queued_work_units,
        slo_seconds=settings.slo_seconds,
        overload=settings.overload_policy,
        rate_limiter=RateLimiter(
            settings.rate_limit_per_second, settings.rate_limit_burst, settings.rate_limit_clients, time.monotonic
        )
        if settings.rate_limit_per_second
        else None,
        # A photo in 4:3.
        reference_size=nearest_bucket(Size(3000, 4000), settings.input_size, settings.max_long_side),
    )


def create_app(
    settings: Settings,
    engine: Engine,
    health: Health,
    admission: Admission,
    *,
    on_startup_failure: Callable[[StartupError], None],
) -> FastAPI:
    """Make the application. The engine is started by its lifespan and works in the background from then on.

    Args:
        settings: Everything configurable.
        engine: Not started yet.
        health: State, shared with the engine's crash handler.
        admission: Bounds, shared with whoever drains.
        on_startup_failure: Called on the event loop if the engine cannot start; the process is then of no use.

    Raises:
        StartupError: `InvalidSettings`: keys or the face detector cannot be read.
    """
    admission.follow(engine)
    version = server_version()
    spec = model_spec(settings.model_family, settings.model_variant)
    metrics = ServerMetrics(CollectorRegistry())
    metrics.set_info(
        version=version,
        model=spec.name,
        device=settings.device,
        precision=settings.precision,
    )
    codecs = ThreadPoolExecutor(settings.codec_threads, thread_name_prefix="codec")
    faces = build_face_blur(settings, metrics.observe_faces)
    runner = RequestRunner(settings=settings, engine=engine, health=health, admission=admission, metrics=metrics)
    pipeline = ImagePipeline(settings=settings, spec=spec, engine=engine, metrics=metrics, codecs=codecs, faces=faces)

    def on_loaded(model: ModelInfo) -> None:
        metrics.set_info(version=version, model=model.name, device=model.device, precision=model.precision)
        health.advance(HealthState.WARMING_UP, "the weights are loaded, the first forward pass runs")
        logger.info("loaded %s on %s in %s, warming up", model.name, model.device, model.precision)

    async def start() -> None:
        try:
            runner.model = await asyncio.wrap_future(engine.start(on_loaded))
        except StartupError as error:
            failure = error
        except Exception as error:
            logger.exception("the engine could not start")
            failure = StartupError(StartupReason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
        else:
            metrics.expose_load(engine, admission, with_faces=faces is not None)
            if health.advance(HealthState.READY, "requests are served"):
                logger.info("ready")
            return
        health.advance(HealthState.FAILED, str(failure))
        on_startup_failure(failure)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(start())
        yield
        starting.cancel()
        await asyncio.to_thread(engine.close, "the server stops")
        codecs.shutdown(wait=False, cancel_futures=True)
        if faces is not None:
            faces.close()

    # FastAPI's own pages load their scripts from another host; `routes.pages` has one that does not.
    app = FastAPI(title="Depth Serving", version=version, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.metrics = metrics
    add_error_handlers(app)
    app.include_router(
        build_router(
            Services(
                settings=settings,
                spec=spec,
                engine=engine,
                health=health,
                metrics=metrics,
                runner=runner,
                predictor=Predictor(settings=settings, spec=spec, runner=runner, pipeline=pipeline),
                version=version,
            )
        )
    )
    add_access_control(app, settings, metrics.count_refused)
    return app
