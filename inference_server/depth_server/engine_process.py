"""An engine process: one model on one device, driven by messages, with pixels in shared memory.

It is started by `engine_pool` and runs a `ThreadEngine`, so batching happens here, next to the device. The main thread
only moves messages and copies depth into slots. It ends when it is told to, when its engine gives up, and when the
process that started it is gone, which it learns from the end of a pipe.
"""

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, cast

import zmq
from pydantic import TypeAdapter, ValidationError

from depth_server.batch_queue import BatchPolicy
from depth_server.engine import DepthModel, EngineResult, ModelInfo
from depth_server.engine_messages import (
    CANCELLED,
    REQUEST,
    CancelMessage,
    CellMessage,
    CloseMessage,
    DepthMessage,
    ErrorMessage,
    FailedMessage,
    LoadedMessage,
    Message,
    ProgressMessage,
    ReadyMessage,
    StatsMessage,
    SubmitMessage,
    encode,
    error_message,
    size_of,
)
from depth_server.errors import DepthServerError, StartupError, StartupReason
from depth_server.shared_memory import SharedPixels
from depth_server.thread_engine import ThreadEngine

logger = logging.getLogger(__name__)

STATS_INTERVAL_MILLISECONDS: Final = 250
"""Time between two `stats` messages."""

SEND_TIMEOUT_MILLISECONDS: Final = 5000
"""How long a reply may wait for the API process to read; afterwards that is taken for dead."""

LINGER_MILLISECONDS: Final = 1000
"""How long the last replies may take to leave when the process ends."""

POLICY: Final = TypeAdapter(BatchPolicy)
"""Reads and writes the policy on the command line."""


Loader = Callable[[Callable[[str], None]], DepthModel]
"""Loads a model and reports what it does meanwhile."""


class EngineServer:
    """Serves one API process.

    Args:
        socket: Connected DEALER.
        pixels: Memory shared with the API process.
        load: Loads the model.
        make_engine: Makes the engine from what loads its model and what is to be called if it crashes.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        pixels: SharedPixels,
        load: Loader,
        make_engine: Callable[[Callable[[], DepthModel], Callable[[str], None]], ThreadEngine],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = socket
        self._pixels = pixels
        self._clock = clock
        self._engine = make_engine(lambda: load(self._report), self._on_crash)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._outbox: deque[Message | int] = deque()
        self._pending: dict[int, tuple[SubmitMessage, Future[EngineResult]]] = {}
        self._exit_code: int | None = None
        self._stats_due = 0.0

    def run(self) -> int:
        """Serve until the end; returns the exit code."""
        self._engine.start(lambda info: self._post(LoadedMessage(info=info))).add_done_callback(self._on_started)
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        while self._exit_code is None or self._outbox:
            poller.poll(STATS_INTERVAL_MILLISECONDS)
            self._read_wake()
            self._send_outbox()
            self._receive()
            self._send_stats()
        self._socket.close(linger=LINGER_MILLISECONDS)
        return self._exit_code

    def _receive(self) -> None:
        while self._exit_code is None and self._socket.poll(0):
            request = REQUEST.validate_json(self._socket.recv())
            if isinstance(request, SubmitMessage):
                self._submit(request)
            elif isinstance(request, CancelMessage):
                if request.id in self._pending:
                    self._pending[request.id][1].cancel()
            else:
                self._close(request)

    def _submit(self, request: SubmitMessage) -> None:
        try:
            pixel_values = self._pixels.pixel_values(request.offset, size_of(request))
            future = self._engine.submit(pixel_values, deadline=request.deadline, lane=request.lane)
        except DepthServerError as error:
            self._post(error_message(request.id, error))
            return
        self._pending[request.id] = (request, future)
        future.add_done_callback(lambda _: self._post(request.id))

    def _close(self, request: CloseMessage) -> None:
        # What runs has been failed already, and the process ends without waiting for its thread.
        self._engine.close(request.reason, timeout_seconds=0)
        self._exit_code = 0

    def _report(self, detail: str) -> None:
        self._post(ProgressMessage(detail=detail))

    def _on_started(self, started: Future[ModelInfo]) -> None:
        error = started.exception()
        if error is None:
            info, limit = started.result(), self._engine.batch_limit
            cells = self._engine.latency_cells()
            self._post(
                ReadyMessage(
                    info=info,
                    batch_limit=limit(cells[0].bucket) if cells else 0,
                    cells=[
                        CellMessage(
                            height=cell.bucket.height,
                            width=cell.bucket.width,
                            batch_size=cell.batch_size,
                            seconds=cell.seconds,
                        )
                        for cell in cells
                    ],
                )
            )
            return
        if isinstance(error, StartupError):
            failed = FailedMessage(reason=error.reason, message=str(error))
        else:
            logger.error("the engine could not start", exc_info=error)
            failed = FailedMessage(reason=StartupReason.INTERNAL_ERROR, message=f"{type(error).__name__}: {error}")
        self._post(failed)
        self._exit_code = 1

    def _on_crash(self, reason: str) -> None:
        logger.error("the engine process ends: %s", reason)
        self._exit_code = 1
        os.eventfd_write(self._wake, 1)

    def _post(self, item: Message | int) -> None:
        """Hand a message, or the id of a finished request, to the main thread."""
        self._outbox.append(item)
        os.eventfd_write(self._wake, 1)

    def _read_wake(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return

    def _send_outbox(self) -> None:
        while self._outbox:
            item = self._outbox.popleft()
            self._send(self._answer(item) if isinstance(item, int) else item)

    def _answer(self, key: int) -> Message:
        request, future = self._pending.pop(key)
        if future.cancelled():
            return ErrorMessage(id=key, error=CANCELLED, message="the request was cancelled")
        error = future.exception()
        if error is not None:
            return error_message(key, error)
        result = future.result()
        self._pixels.depth(request.offset, size_of(request))[...] = result.depth
        return DepthMessage(
            id=key,
            queue_seconds=result.queue_seconds,
            forward_seconds=result.forward_seconds,
            batch_size=result.batch_size,
        )

    def _send_stats(self) -> None:
        now = self._clock()
        if now < self._stats_due:
            return
        self._stats_due = now + STATS_INTERVAL_MILLISECONDS / 1000
        engine = self._engine
        self._send(
            StatsMessage(
                waiting=engine.waiting,
                busy_seconds=engine.busy_seconds(),
                gpu_busy_seconds=engine.gpu_busy_seconds(),
                current_forward_seconds=engine.current_forward_seconds(),
            )
        )

    def _send(self, message: Message) -> None:
        self._socket.send(encode(message))


def load_configured_model(report: Callable[[str], None]) -> DepthModel:
    """Load the model that the settings in the environment declare.

    Args:
        report: Told what is being done.

    Raises:
        StartupError: See `load_settings` and `load_model`.
    """
    from depth_server.model_loading import load_model  # noqa: PLC0415 not wanted by processes with another loader
    from depth_server.settings import load_settings  # noqa: PLC0415 likewise

    return load_model(load_settings(), report)


def find_loader(name: str) -> Loader:
    """Import `module:function`.

    Raises:
        StartupError: `InternalError`: there is no such function.
    """
    module, _, attribute = name.partition(":")
    try:
        return cast("Loader", getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        message = f"the engine process has no loader {name}: {error}"
        raise StartupError(StartupReason.INTERNAL_ERROR, message) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process; returns its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level,
        format=f"%(asctime)s %(levelname)s engine {options.index} %(name)s: %(message)s",
    )
    # A terminal's Ctrl-C and a node's SIGTERM reach the whole group; the API process decides when to end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(options.lifeline,), name="lifeline", daemon=True).start()
    pixels = SharedPixels(options.pixels, options.pixels_bytes)
    policy: BatchPolicy = POLICY.validate_json(options.policy)

    def load(report: Callable[[str], None]) -> DepthModel:
        return find_loader(options.loader)(report)  # in the engine's thread, since the import takes seconds

    def make_engine(load: Callable[[], DepthModel], on_crash: Callable[[str], None]) -> ThreadEngine:
        return ThreadEngine(
            load,
            policy=policy,
            max_consecutive_failures=options.max_consecutive_failures,
            on_crash=on_crash,
        )

    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MILLISECONDS)
    socket.connect(options.endpoint)
    try:
        code = EngineServer(socket, pixels, load, make_engine).run()
    except (ValidationError, ValueError, zmq.ZMQError):
        logger.exception("the engine process cannot go on")
        code = 1
    logging.shutdown()
    # A daemon thread inside torch may crash an interpreter that is being taken down under it. The socket's last
    # messages leave first.
    socket.context.term()
    os._exit(code)


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)  # nobody writes: it returns when the other end is closed, however that came about
    os._exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="An engine process; started by the server, not by hand.")
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--lifeline", type=int, required=True, help="descriptor of a pipe of the API process")
    parser.add_argument("--pixels", type=int, required=True, help="descriptor of the shared memory")
    parser.add_argument("--pixels-bytes", type=int, required=True)
    parser.add_argument("--loader", required=True, help="module:function that loads the model")
    parser.add_argument("--policy", required=True, help="BatchPolicy as JSON")
    parser.add_argument("--max-consecutive-failures", type=int, required=True)
    parser.add_argument("--log-level", default="INFO")
    return parser


if __name__ == "__main__":
    sys.exit(main())
