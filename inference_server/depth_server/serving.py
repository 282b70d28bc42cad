"""Runs the application under uvicorn: the socket, signals, draining, the exit code.

uvicorn alone closes its port at SIGTERM and dies by that signal afterwards. In a cluster the endpoint is known for a
moment longer, and the contract asks for exit code 0; so signals are handled here.
"""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import uvicorn

from depth_server.app import create_app, make_admission
from depth_server.connections import bounded_protocol
from depth_server.engine import CLOSE_TIMEOUT_SECONDS, Engine
from depth_server.errors import StartupError, StartupReason
from depth_server.health import Health, HealthState
from depth_server.settings import DEFAULT_TERMINATION_MESSAGE_PATH, Settings
from depth_server.slow_clients import slow_client_protocol

logger = logging.getLogger(__name__)

LISTEN_BACKLOG: Final = 256
"""Connections that the kernel holds until they are accepted."""

MAX_HEAD_BYTES: Final = 16 * 1024
"""Bytes of a request's line and headers."""

KEEP_ALIVE_SECONDS: Final = 30
"""How long an idle connection stays open; a gateway's pool should close its own sooner."""


class SignallessServer(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller."""
        yield


class ServerProcess:
    """One run of the server in this process.

    Args:
        settings: Everything configurable.
        engine: Not started yet.
        health: State, shared with the engine's crash handler.
    """

    def __init__(self, settings: Settings, engine: Engine, health: Health) -> None:
        self._settings = settings
        self._engine = engine
        self._health = health
        self._admission = make_admission(settings)
        self._failure: StartupError | None = None
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal comes or the start fails.

        Returns:
            The exit code: 0 after a signal, 1 if the server could not start.

        Raises:
            StartupError: The port cannot be had.
        """
        settings = self._settings
        # The threads of the codec pool already use the cores.
        cv2.setNumThreads(1)
        listener = bind(settings.host, settings.port)
        app = create_app(
            settings, self._engine, self._health, self._admission, on_startup_failure=self._on_startup_failure
        )
        server = SignallessServer(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                http=slow_client_protocol(
                    settings,
                    app.state.metrics.count_slow_client,
                    bounded_protocol(settings.max_connections, self._admission),
                ),
                ws="none",
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                # The drain below ends sooner; this is for connections that neither finish nor close.
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds + CLOSE_TIMEOUT_SECONDS),
            )
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(self._stop.wait())
        logger.info("listening on http://%s:%d", settings.host, listener.getsockname()[1])
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if self._failure is None:
            await self._wait_for_endpoints()
        server.should_exit = True
        if self._failure is None:
            await self._finish_accepted()
        await serving
        logger.info("stopped")
        return 0 if self._failure is None else 1

    async def _wait_for_endpoints(self) -> None:
        was_ready = self._health.was_ready
        self._health.advance(HealthState.DRAINING, "the process was told to stop")
        if was_ready:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._settings.drain_delay_seconds)

    async def _finish_accepted(self) -> None:
        try:
            await asyncio.wait_for(self._admission.wait_until_idle(), self._settings.drain_seconds)
        except TimeoutError:
            logger.warning(
                "%d requests are not finished after %g s of draining and are answered with 503",
                self._admission.inflight,
                self._settings.drain_seconds,
            )
            await asyncio.to_thread(self._engine.close, "the server had to stop before this request's turn")

    def _on_signal(self, name: str) -> None:
        if self._stop.is_set():
            logger.info("%s again: draining without delay", name)
            self._hurry.set()
            return
        logger.info("%s: draining", name)
        self._stop.set()

    def _on_startup_failure(self, error: StartupError) -> None:
        self._failure = error
        report_startup_failure(error, self._settings.termination_message_path)
        self._stop.set()


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        StartupError: `InvalidSettings`: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG)
    except OSError as error:
        message = f"cannot listen on {host}:{port}: {error.strerror}; correct DEPTH_SERVER_HOST and DEPTH_SERVER_PORT"
        raise StartupError(StartupReason.INVALID_SETTINGS, message) from error
    # Accepted sockets inherit it; asyncio sets it only on those made with an explicit protocol. Without it the body of
    # an answer waits for the client to acknowledge the head, 40 ms on a new connection.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def report_startup_failure(error: StartupError, path: Path) -> None:
    """Log why the server cannot start, and leave it where the kubelet looks for it."""
    message = error.termination_message()
    logger.error("cannot start: %s", message)
    # The kubelet creates the default file; where it is missing nobody reads it, and /dev is no place to litter.
    create = 0 if path == DEFAULT_TERMINATION_MESSAGE_PATH else os.O_CREAT
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_TRUNC | create, 0o644), "w", encoding="utf-8") as file:
            file.write(message + "\n")
    except OSError as failure:
        logger.debug("no termination message at %s: %s", path, failure.strerror)
