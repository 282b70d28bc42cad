"""The process ``python -m depth_operator run``: wiring, leader election, and the way it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import kopf
from prometheus_client import CollectorRegistry

from depth_operator.adapters.kubernetes import (
    KubernetesApi,
    KubernetesCluster,
    KubernetesLeases,
    load_configuration,
)
from depth_operator.adapters.no_metrics import NoMetrics
from depth_operator.adapters.prometheus import PrometheusMetrics
from depth_operator.controller import Controller, ControllerConfig
from depth_operator.endpoints import serve
from depth_operator.errors import ApiError
from depth_operator.handlers import register
from depth_operator.leader import AlwaysLeading, Elector, LeaseConfig
from depth_operator.reconciler import Config, Reconciler
from depth_operator.scaling.parameters import PolicyParameters
from depth_operator.telemetry import ReconcileMetrics

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import kubernetes.client

    from depth_operator.settings import Settings

EXIT_STOPPED = 0
EXIT_FAILED = 1

STOP_TIMEOUT_SECONDS = 10.0
"""Time that kopf and the controller get to end before the process ends anyway."""
CRD_POLL_SECONDS = 2.0
"""Time between two looks for the CustomResourceDefinition."""

logger = logging.getLogger(__name__)


def wall_seconds() -> str:
    """The time as metav1.Time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def wall_microseconds() -> str:
    """The time as metav1.MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def configuration() -> kubernetes.client.Configuration:
    """How to reach the API server, by the environment as it is now."""
    return load_configuration(os.environ.get("KUBECONFIG"))


def connection() -> kopf.ConnectionInfo:
    """How kopf reaches the API server: as the operator itself does."""
    loaded = configuration()
    authorization = loaded.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
    scheme, _, token = authorization.rpartition(" ")
    return kopf.ConnectionInfo(
        server=loaded.host,
        ca_path=loaded.ssl_ca_cert,
        insecure=not loaded.verify_ssl,
        certificate_path=loaded.cert_file,
        private_key_path=loaded.key_file,
        scheme=scheme or None,
        token=token or None,
    )


async def _cancelled(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and wait for its end."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


class Operator:
    """One process of the operator with everything that it is made of."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        identity = settings.identity or f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._api = KubernetesApi(
            configuration,
            timeout_seconds=settings.api_timeout_seconds,
            concurrency=settings.api_concurrency,
        )
        # The Lease has connections and threads of its own: many slow requests must not keep it from being renewed.
        self._lease_api = KubernetesApi(
            configuration,
            timeout_seconds=settings.api_timeout_seconds,
            concurrency=1,
        )
        self._elector = self._make_elector(identity)
        self._cluster = KubernetesCluster(
            self._api,
            watch_namespace=settings.watch_namespace,
            identity=identity,
            is_leading=(self._elector or AlwaysLeading()).is_leading,
            wall=wall_seconds,
        )
        self._signals = self._make_metrics_source()
        self._metrics = ReconcileMetrics(CollectorRegistry())
        self._controller = self._make_controller()
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Wait for the lead, serve until told to stop, and return the exit code."""
        settings = self._settings
        self._handle_signals()
        async with serve(
            self._metrics.registry,
            lambda: self._controller.is_alive,
            self._not_ready_because,
            host=settings.host,
            health_port=settings.health_port,
            metrics_port=settings.metrics_port,
        ):
            try:
                return await self._lead()
            finally:
                await self._close()

    def _not_ready_because(self) -> str | None:
        """Whether the API server answers, by the Lease's requests every few seconds, whoever leads."""
        api = self._lease_api if self._elector is not None else self._api
        return None if api.trouble is None else f"the API server: {api.trouble}"

    async def _lead(self) -> int:
        lease: asyncio.Task[None] | None = None
        if self._elector is not None:
            if not await self._unless_stopped(self._elector.acquire()):
                return EXIT_STOPPED
            lease = asyncio.create_task(self._elector.hold(), name="lease")
        self._metrics.leader.set(1)
        kopf_stop = asyncio.Event()
        serving = asyncio.create_task(self._serve(kopf_stop), name="serving")
        stopped = asyncio.create_task(self._stop.wait(), name="stop signal")
        await asyncio.wait([task for task in (lease, serving, stopped) if task], return_when=asyncio.FIRST_COMPLETED)
        self._metrics.leader.set(0)
        deposed = lease is not None and lease.done()
        code = await self._end(serving, kopf_stop)
        # Nothing may renew the Lease any more once it is given back.
        for task in (lease, stopped):
            await _cancelled(task)
        if self._elector is not None and not deposed:
            await self._elector.release()
        return EXIT_FAILED if deposed else code

    async def _serve(self, stop: asyncio.Event) -> None:
        """Watch and reconcile until told to stop; returns early only if something broke."""
        while not await self._is_kind_served():
            with suppress(TimeoutError):
                async with asyncio.timeout(CRD_POLL_SECONDS):
                    await stop.wait()
            if stop.is_set():
                return
        registry = kopf.OperatorRegistry()
        register(registry, self._controller, connection)
        namespace = self._settings.watch_namespace
        existing = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=registry,
            settings=kopf.OperatorSettings(),
            standalone=True,
            clusterwide=namespace is None,
            namespaces=[namespace] if namespace else [],
            stop_flag=stop,
        )
        self._handle_signals()
        await kopf.run_tasks(tasks, ignored=existing)

    def _handle_signals(self) -> None:
        """Take SIGINT and SIGTERM; kopf takes them too when it starts, and then does not see its own stop flag."""
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    async def _is_kind_served(self) -> bool:
        """A CustomResourceDefinition that comes later would not be noticed by kopf, so it is waited for."""
        try:
            if await self._cluster.is_kind_served():
                return True
            logger.warning("the CustomResourceDefinition depthservices.depthserving.dev is missing; apply it")
        except ApiError as error:
            logger.warning("the API server does not answer: %s", error)
        return False

    async def _end(self, serving: asyncio.Task[None], kopf_stop: asyncio.Event) -> int:
        """Let kopf and the controller end, within a bounded time; an end that nobody asked for is a failure."""
        unasked = serving.done()
        kopf_stop.set()
        done, _ = await asyncio.wait([serving], timeout=STOP_TIMEOUT_SECONDS)
        if not done:
            logger.error("kopf did not stop within %s s", STOP_TIMEOUT_SECONDS)
            return EXIT_FAILED
        error = serving.exception() if not serving.cancelled() else None
        if error is not None:
            logger.error("kopf failed: %s", error, exc_info=error)
            return EXIT_FAILED
        if unasked:
            logger.error("kopf ended by itself")
            return EXIT_FAILED
        logger.info("stopped", extra={"action": "stop"})
        return EXIT_STOPPED

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, None]) -> bool:
        """Await something unless a signal comes first; says whether it came to its end."""
        task = asyncio.create_task(waiting)
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        for pending in (task, stopped):
            pending.cancel()
        return task.done() and not task.cancelled()

    async def _close(self) -> None:
        await self._signals.close()
        for api in (self._api, self._lease_api):
            await asyncio.get_running_loop().run_in_executor(None, api.close)

    def _make_elector(self, identity: str) -> Elector | None:
        settings = self._settings
        if not settings.leader_elect:
            return None
        leases = KubernetesLeases(self._lease_api, name=settings.lease_name, namespace=settings.namespace)
        config = LeaseConfig(
            name=settings.lease_name,
            namespace=settings.namespace,
            identity=identity,
            duration_seconds=settings.lease_duration_seconds,
            renew_deadline_seconds=settings.lease_renew_deadline_seconds,
            retry_period_seconds=settings.lease_retry_period_seconds,
        )
        return Elector(leases, config, monotonic=time.monotonic, wall_microseconds=wall_microseconds)

    def _make_metrics_source(self) -> PrometheusMetrics | NoMetrics:
        settings = self._settings
        if not settings.prometheus_address:
            return NoMetrics()
        return PrometheusMetrics(
            settings.prometheus_address,
            window_seconds=settings.metrics_window_seconds,
            timeout_seconds=settings.prometheus_timeout_seconds,
            stale_after_seconds=settings.metrics_stale_after_seconds,
        )

    def _make_controller(self) -> Controller:
        settings = self._settings
        reconciler = Reconciler(
            self._cluster,
            self._signals,
            Config(
                server_image=settings.server_image,
                scaling_interval_seconds=settings.scaling_interval_seconds,
                signals_refresh_seconds=settings.signals_refresh_seconds,
                policy=PolicyParameters(
                    stabilization_window_seconds=settings.stabilization_window_seconds,
                    stale_after_seconds=settings.metrics_stale_after_seconds,
                ),
            ),
            monotonic=time.monotonic,
            wall=wall_seconds,
        )
        config = ControllerConfig(
            workers=settings.workers,
            resync_interval_seconds=settings.resync_interval_seconds,
            reconcile_timeout_seconds=settings.reconcile_timeout_seconds,
            backoff_base_seconds=settings.backoff_base_seconds,
            backoff_cap_seconds=settings.backoff_cap_seconds,
        )
        return Controller(reconciler.reconcile, self._cluster, config, self._metrics, monotonic=time.monotonic)


async def run_operator(settings: Settings) -> int:
    """Run the operator and return the exit code of the process."""
    return await Operator(settings).run()
