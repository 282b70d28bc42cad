"""The HTTPS server of the metrics API and its process.

The listening socket outlives the TLS contexts: when the certificate or the front-proxy CA changes, a new context takes
over accepting from the same socket, so no connection is lost; connections of the old context are closed after their
next answer, or instead of it if they were verified by a CA that has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from depth_operator.metrics_api.application import MetricsApi
from depth_operator.metrics_api.authentication import ConfigurationError, RequestHeaderConfig
from depth_operator.metrics_api.authorization import CachedReviews
from depth_operator.metrics_api.cluster import Cluster, ClusterError, connect_to_current
from depth_operator.metrics_api.store import PublishedReplicas
from depth_operator.metrics_api.tls import CertificateError, TlsMaterial, read_material, serving_context
from depth_operator.metrics_api.watcher import EventLoopSink, follow

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from depth_operator.metrics_api.settings import MetricsApiSettings

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 75.0
"""How long an idle connection is kept; longer than the 15 s of the HorizontalPodAutoscaler."""

SHUTDOWN_SECONDS = 5.0
"""Limit for answering requests in flight at the end."""


class Listener:
    """One listening socket with exchangeable TLS contexts.

    Args:
        api: Gets the context that new connections have.
        host: Address to listen on.
        port: Port, 0 for a free one.

    Raises:
        OSError: If the address cannot be listened on.
    """

    def __init__(self, api: MetricsApi, host: str, port: int) -> None:
        self._api = api
        self._runner = web.AppRunner(
            api.application(),
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        self._socket = socket.create_server((host, port), backlog=128)
        self._site: web.SockSite | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        port: int = self._socket.getsockname()[1]
        return port

    async def use(self, context: ssl.SSLContext, *, same_client_ca: bool) -> None:
        """Accept connections with this context from now on.

        Args:
            context: The context.
            same_client_ca: Whether it trusts the same front-proxy CA as the one before.
        """
        if self._site is None:
            await self._runner.setup()
        previous, self._site = self._site, web.SockSite(self._runner, self._socket.dup(), ssl_context=context)
        former = self._api.trusted_contexts if same_client_ca else frozenset()
        self._api.context, self._api.trusted_contexts = context, former | {context}
        await self._site.start()
        if previous is not None:
            await previous.stop()

    async def close(self) -> None:
        """Answer what is in flight, then close."""
        await self._runner.cleanup()
        self._socket.close()


class Reloader:
    """Takes over a changed certificate, key or front-proxy configuration.

    Args:
        api: Gets the front-proxy configuration.
        listener: Gets the TLS contexts.
        cluster: Where the ConfigMap is read.
        cert_file: Serving certificate.
        key_file: Its key.
    """

    def __init__(self, api: MetricsApi, listener: Listener, cluster: Cluster, cert_file: Path, key_file: Path) -> None:
        self._api = api
        self._listener = listener
        self._cluster = cluster
        self._cert_file = cert_file
        self._key_file = key_file
        self._material: TlsMaterial | None = None

    async def start(self) -> None:
        """Serve with the certificate, and with the front-proxy CA if it can be read already.

        Raises:
            CertificateError: If the certificate cannot be used: without one nothing can be served.
        """
        await self._read_front_proxy()
        await self._apply()

    async def refresh(self) -> None:
        """Look for changes; what cannot be read or used leaves everything as it is, with a line in the log."""
        await self._read_front_proxy()
        try:
            await self._apply()
        except CertificateError as error:
            log.warning("%s; the previous one stays in use", error)

    async def _read_front_proxy(self) -> None:
        try:
            self._api.front_proxy = RequestHeaderConfig.from_config_map(await self._cluster.front_proxy_config())
        except (ClusterError, ConfigurationError) as error:
            log.warning("front-proxy configuration: %s", error)

    async def _apply(self) -> None:
        front_proxy = self._api.front_proxy
        client_ca = "" if front_proxy is None else front_proxy.client_ca
        material = await asyncio.to_thread(read_material, self._cert_file, self._key_file, client_ca)
        if material != self._material:
            same_client_ca = self._material is not None and self._material.client_ca == client_ca
            await self._listener.use(serving_context(material), same_client_ca=same_client_ca)
            self._material = material
            log.info("serving with %s", self._cert_file)


@contextlib.asynccontextmanager
async def serving(settings: MetricsApiSettings, cluster: Cluster) -> AsyncIterator[tuple[MetricsApi, Listener]]:
    """Run the server while the context is entered.

    Raises:
        CertificateError: If the serving certificate cannot be used.
        OSError: If the address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    store = PublishedReplicas()
    stop = threading.Event()

    def now() -> datetime:
        return datetime.now(UTC)

    def watch() -> None:
        # The loop may be closed before a watch that was told to stop has noticed.
        with contextlib.suppress(RuntimeError):
            follow(cluster, EventLoopSink(store, loop.call_soon_threadsafe), stop, now)

    # Not an executor: its threads are joined at exit, and a watch blocks for as long as it lasts.
    watcher = threading.Thread(target=watch, name="watch-depthservices", daemon=True)
    refreshing: asyncio.Task[None] | None = None

    def is_alive() -> bool:
        return watcher.is_alive() and (refreshing is None or not refreshing.done())

    cache_seconds = settings.metrics_api_authorization_cache_seconds
    api = MetricsApi(store, CachedReviews(cluster, cache_seconds=cache_seconds, clock=loop.time), is_alive)
    listener = Listener(api, settings.metrics_api_host, settings.metrics_api_port)
    cert_file, key_file = Path(settings.metrics_api_cert_file), Path(settings.metrics_api_key_file)
    reloader = Reloader(api, listener, cluster, cert_file, key_file)
    try:
        watcher.start()
        await reloader.start()
        log.info("metrics API listens on %s port %d", settings.metrics_api_host, listener.port)
        refreshing = asyncio.create_task(_refresh_for_ever(reloader, settings.metrics_api_reload_seconds))
        yield api, listener
    finally:
        stop.set()
        if refreshing is not None:
            refreshing.cancel()
            await asyncio.wait([refreshing])
        await listener.close()


async def _refresh_for_ever(reloader: Reloader, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await reloader.refresh()


async def run(settings: MetricsApiSettings, cluster: Cluster) -> None:
    """Serve until SIGTERM or SIGINT, then turn unready, go on answering for the drain time, and end.

    Raises:
        CertificateError: If the serving certificate cannot be used.
        OSError: If the address cannot be listened on.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings, cluster) as (api, _):
        await stop.wait()
        api.draining = True
        # Endpoints and aggregator learn of the unready pod only after a probe; until then they still send requests.
        await asyncio.sleep(settings.metrics_api_drain_seconds)


def main(settings: MetricsApiSettings) -> int:
    """Run the process `python -m depth_operator metrics-api`.

    Returns:
        0 after SIGTERM or SIGINT; 1 if it could not start, with the reason in the log.
    """
    try:
        cluster = connect_to_current(namespace=settings.watch_namespace, timeout_seconds=settings.api_timeout_seconds)
    except ClusterError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says it all
        return 1
    try:
        asyncio.run(run(settings, cluster))
    except (CertificateError, OSError) as error:
        log.error("the metrics API cannot start: %s", error)  # noqa: TRY400 - the message says it all
        return 1
    finally:
        cluster.close()
    return 0
