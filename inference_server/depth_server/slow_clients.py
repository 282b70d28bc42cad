"""Closes connections of clients that are too slow; uvicorn waits for them for ever (slowloris, RUDY, slow read).

A mixin for uvicorn's HTTP protocols, both of which know their current request as `cycle` (uvicorn 0.54,
`protocols/http/h11_impl.py` and `httptools_impl.py`). One timer per connection, set only when it would fire sooner
than it does anyway, keeps the cost out of a fast client's way.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from depth_server.access_settings import AccessSettings
from depth_server.client_pace import ClientPace, PaceLimits, SlowPhase
from depth_server.errors import PROBLEM_MEDIA_TYPE, UploadTimeoutError, http_error
from depth_server.security_headers import SECURITY_HEADERS

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as HttpProtocol
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle
else:
    HttpProtocol = object

logger = logging.getLogger(__name__)

SLOW_DETAILS = {
    SlowPhase.HEAD: "the request's headers did not arrive in time",
    SlowPhase.BODY: "the request's body arrives too slowly",
}
"""What a client is told that is too slow before it has an answer."""


class SlowClientMixin(HttpProtocol):
    """Goes before one of uvicorn's protocols among the bases of a class."""

    pace_limits: PaceLimits
    on_slow_client: Callable[[str], None]
    _pace: ClientPace
    _pace_timer: asyncio.TimerHandle | None = None
    _paced_cycle: object = None
    _is_silent: bool = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Start the clock."""
        super().connection_made(transport)
        self._pace = ClientPace(self.pace_limits, self.loop.time())
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._pace_timer is not None:
            self._pace_timer.cancel()
            self._pace_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note what arrives."""
        self._is_silent = False
        now = self.loop.time()
        request = self._request
        if self._pace.phase is None and (request is None or request.response_complete):
            self._pace.begin_head(now)
        super().data_received(data)
        self._note_progress(now, len(data))
        self._set_timer()

    def on_response_complete(self) -> None:
        """Note an answer."""
        answered = self._request
        super().on_response_complete()
        now = self.loop.time()
        if self._request is not answered:
            self._note_progress(now, 0)
        elif answered is not None and answered.more_body:
            self._pace.begin_leftover(now)
        else:
            self._pace.finish_request()
        self._pace.begin_answer(now, self.transport.get_write_buffer_size())
        self._set_timer()

    def pause_writing(self) -> None:
        """Note that the client does not keep up with its answer."""
        super().pause_writing()
        self._pace.begin_answer(self.loop.time(), self.transport.get_write_buffer_size())
        self._set_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        title = HTTPStatus.BAD_REQUEST.phrase
        self._refuse(400, {"type": "about:blank", "title": title, "status": 400, "detail": msg})

    @property
    def _request(self) -> "RequestResponseCycle | None":
        """The current request, or the last one; None before the first, which uvicorn's annotation denies."""
        return self.cycle

    def _note_progress(self, now: float, count: int) -> None:
        cycle, pace = self._request, self._pace
        if cycle is None:
            return
        if cycle is not self._paced_cycle:
            self._paced_cycle = cycle
            if cycle.more_body:
                pace.begin_body(now)
                pace.receive(count)
            else:
                pace.finish_request()
        elif pace.phase is SlowPhase.BODY:
            pace.receive(count)
            if not cycle.more_body:
                pace.finish_request()

    def _set_timer(self) -> None:
        deadline = self._pace.deadline
        if deadline is None or self.transport.is_closing():
            return
        if self._pace_timer is not None:
            if self._pace_timer.when() <= deadline:
                return
            self._pace_timer.cancel()
        self._pace_timer = self.loop.call_at(deadline, self._check_pace)

    def _check_pace(self) -> None:
        self._pace_timer = None
        cycle = self._request
        server_is_waiting = cycle is None or not (self.flow.read_paused or cycle.waiting_for_100_continue)
        slow = self._pace.check(
            self.loop.time(),
            server_is_waiting=server_is_waiting,
            untaken=self.transport.get_write_buffer_size(),
        )
        if slow is None:
            self._set_timer()
            return
        logger.debug("a client is closed: too slow at its %s", slow)
        if self._is_silent:
            # Opened in advance and never used, as browsers and pools do: closed without a word, and no offence.
            self.transport.close()
            return
        self.on_slow_client(slow)
        if slow is SlowPhase.ANSWER:
            # What it did not take would keep a connection that is only closed.
            self.transport.abort()
        elif slow in SLOW_DETAILS and (slow is SlowPhase.HEAD or cycle is None or not cycle.response_started):
            row = http_error(UploadTimeoutError)
            body = {"type": row.type, "title": row.title, "status": row.status, "detail": SLOW_DETAILS[slow]}
            self._refuse(row.status, body)
        else:
            self._close()

    def _refuse(self, status: int, body: dict[str, object]) -> None:
        """Answer past the HTTP library, whose state does not allow an answer now, and close."""
        content = orjson.dumps(body)
        headers = {
            "Content-Type": PROBLEM_MEDIA_TYPE,
            "Content-Length": str(len(content)),
            "Connection": "close",
            **SECURITY_HEADERS,
        }
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii") + content)
        self._close()

    def _close(self) -> None:
        """Close, at once if the client does not take what is left within the period for answers."""
        self.transport.close()
        self.loop.call_later(self.pace_limits.answer_seconds, self.transport.abort)


def slow_client_protocol(
    settings: AccessSettings,
    on_slow_client: Callable[[str], None],
    base: type[asyncio.Protocol] = AutoHTTPProtocol,
) -> type[asyncio.Protocol]:
    """Give an HTTP protocol of uvicorn's deadlines for clients.

    Args:
        settings: How slow a client may be.
        on_slow_client: Told what each client that was closed was too slow at.
        base: The protocol; by default whichever is installed.
    """
    limits = PaceLimits(
        head_seconds=settings.head_timeout_seconds,
        body_seconds=settings.body_grace_seconds,
        answer_seconds=settings.answer_grace_seconds,
        min_bytes_per_second=settings.min_client_bytes_per_second,
    )
    # The function is wrapped, or it would become a method.
    members = {"pace_limits": limits, "on_slow_client": staticmethod(on_slow_client)}
    return type("PacedHttpProtocol", (SlowClientMixin, base), members)
