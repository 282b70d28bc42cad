"""Slow clients against uvicorn with our protocol, on real sockets and with short deadlines.

Nothing here measures time: a test waits, with a bound, until the server closes a connection or answers.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from depth_server.access_settings import AccessSettings
from depth_server.slow_clients import SlowClientMixin, slow_client_protocol

PATIENCE = 20.0
GET = b"GET /small HTTP/1.1\r\nHost: depth\r\n\r\n"
LARGE_BYTES = 32 * 1024 * 1024


@dataclass
class Application:
    """Echoes the size of a body; `/large` answers with 32 MiB, `/busy` reads its body when `release` is set,
    `/refused` answers without reading."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    disconnects: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/busy":
            await self.release.wait()
        size, more = 0, scope["path"] != "/refused"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                return
            size += len(message["body"])
            more = message["more_body"]
        body = bytes(LARGE_BYTES) if scope["path"] == "/large" else str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass
class Serving:
    port: int
    application: Application
    slow: Counter[str]
    server: uvicorn.Server

    @asynccontextmanager
    async def connection(self, limit: int = 2**16) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=limit)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def exchange(self, request: bytes) -> bytes:
        async with self.connection() as (reader, writer):
            writer.write(request)
            return await head(reader)


@asynccontextmanager
async def serving(**settings: float) -> AsyncIterator[Serving]:
    limits = {"head_timeout_seconds": 0.5, "body_grace_seconds": 0.5, "answer_grace_seconds": 0.5, **settings}
    application, slow = Application(), Counter[str]()

    def count(phase: str) -> None:
        slow[phase] += 1

    protocol = slow_client_protocol(AccessSettings.model_validate(limits), count)
    config = uvicorn.Config(application, port=0, http=protocol, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Serving(port, application, slow, server)
    finally:
        application.release.set()
        server.should_exit = server.force_exit = True
        await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 what is waited for is set by the server
            await asyncio.sleep(0.01)


async def head(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await reader.readuntil(b"\r\n\r\n")


async def drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send byte by byte until the other side has had enough."""
    try:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)
    except ConnectionError:
        return


async def assert_closed(reader: asyncio.StreamReader) -> None:
    """A client that goes on sending may get a reset in place of the answer."""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")


async def assert_timed_out(reader: asyncio.StreamReader) -> None:
    answer = await head(reader)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"Content-Type: application/problem+json" in answer
    assert b"Connection: close" in answer
    async with asyncio.timeout(PATIENCE):
        body = orjson.loads(await reader.read())
    assert body["type"] == "urn:depthserving:problem:upload-timeout"


def test_the_protocol_is_uvicorns_with_deadlines() -> None:
    protocol = slow_client_protocol(AccessSettings(), lambda _: None)
    assert issubclass(protocol, AutoHTTPProtocol)
    assert issubclass(protocol, SlowClientMixin)


async def test_a_head_that_drips_is_closed() -> None:
    async with serving() as server, server.connection() as (reader, writer):
        sending = asyncio.create_task(drip(writer, b"GET /small HTTP/1.1\r\nX: " + b"x" * 100_000))
        await assert_closed(reader)
        sending.cancel()
        assert server.slow == {"head": 1}


@pytest.mark.parametrize(
    "beginning",
    [
        b"G",
        b"GET /small HTTP/1.1\r\nHost: depth\r\n",
        b"POST /small HTTP/1.1\r\nHost: depth\r\nContent-Length: 9\r\n\r\n",
        b"POST /small HTTP/1.1\r\nHost: depth\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
    ],
)
async def test_a_request_that_is_never_finished_is_told_so(beginning: bytes) -> None:
    async with serving() as server, server.connection() as (reader, writer):
        writer.write(beginning)
        await assert_timed_out(reader)


async def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with serving() as server, server.connection() as (reader, _):
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b""
        assert server.slow == {}


async def test_a_body_that_drips_is_closed_and_the_application_learns_of_it() -> None:
    async with serving() as server, server.connection() as (reader, writer):
        writer.write(b"POST /small HTTP/1.1\r\nHost: depth\r\nContent-Length: 1000000\r\n\r\n")
        sending = asyncio.create_task(drip(writer, b"x" * 100_000))
        await assert_closed(reader)
        sending.cancel()
        await until(lambda: server.application.disconnects == 1)
        assert server.slow == {"body": 1}


async def test_a_chunked_body_that_drips_is_closed() -> None:
    async with serving() as server, server.connection() as (reader, writer):
        writer.write(b"POST /small HTTP/1.1\r\nHost: depth\r\nTransfer-Encoding: chunked\r\n\r\n")
        sending = asyncio.create_task(drip(writer, b"1\r\nx\r\n" * 20_000))
        await assert_closed(reader)
        sending.cancel()


async def test_a_second_request_that_drips_is_closed_too() -> None:
    async with serving() as server, server.connection() as (reader, writer):
        writer.write(GET)
        assert (await head(reader)).startswith(b"HTTP/1.1 200 ")
        async with asyncio.timeout(PATIENCE):
            assert await reader.readexactly(1) == b"0"
        sending = asyncio.create_task(drip(writer, b"GET /small HTTP/1.1\r\nX: " + b"x" * 100_000))
        await assert_closed(reader)
        sending.cancel()
        assert server.slow == {"head": 1}


async def test_a_client_that_does_not_take_its_answer_is_closed() -> None:
    async with serving() as server, server.connection(limit=1024) as (reader, writer):
        writer.write(b"GET /large HTTP/1.1\r\nHost: depth\r\n\r\n")
        await head(reader)
        await until(lambda: server.slow == {"answer": 1})
        await until(lambda: not server.server.server_state.connections)


async def test_the_rest_of_a_refused_body_has_an_end() -> None:
    async with serving() as server, server.connection() as (reader, writer):
        writer.write(b"POST /refused HTTP/1.1\r\nHost: depth\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await head(reader)).startswith(b"HTTP/1.1 200 ")
        sending = asyncio.create_task(drip(writer, b"1\r\nx\r\n" * 20_000))
        await until(lambda: server.slow == {"leftover": 1})
        sending.cancel()


async def test_a_fast_body_passes_whatever_the_deadlines_are() -> None:
    body = b"x" * 4_000_000
    async with serving() as server:
        request = b"POST /small HTTP/1.1\r\nHost: depth\r\nContent-Length: 4000000\r\n\r\n" + body
        assert (await server.exchange(request)).startswith(b"HTTP/1.1 200 ")
        assert server.slow == {}


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
async def test_a_client_that_waits_for_the_server_is_not_slow(expect: bytes) -> None:
    """The server does not read, so nothing can be sent; other connections time out meanwhile."""
    async with serving() as server, server.connection() as (reader, writer):
        size = 16_000_000
        writer.write(b"POST /busy HTTP/1.1\r\nHost: depth\r\n" + expect + b"Content-Length: %d\r\n\r\n" % size)
        if not expect:
            writer.write(b"x" * size)
        for _ in range(3):
            async with server.connection() as (silent, _):
                async with asyncio.timeout(PATIENCE):
                    assert await silent.read() == b""
        server.application.release.set()
        if expect:
            assert (await head(reader)).startswith(b"HTTP/1.1 100 ")
            writer.write(b"x" * size)
        assert (await head(reader)).startswith(b"HTTP/1.1 200 ")
        assert server.slow == {}


async def test_an_answer_that_takes_the_server_long_is_awaited() -> None:
    async with serving() as server, server.connection() as (reader, writer):
        writer.write(b"GET /busy HTTP/1.1\r\nHost: depth\r\n\r\n")
        for _ in range(3):
            async with server.connection() as (silent, _):
                async with asyncio.timeout(PATIENCE):
                    assert await silent.read() == b""
        server.application.release.set()
        assert (await head(reader)).startswith(b"HTTP/1.1 200 ")


async def test_pipelined_requests_are_answered() -> None:
    async with serving() as server, server.connection() as (reader, writer):
        post = b"POST /small HTTP/1.1\r\nHost: depth\r\nContent-Length: 3\r\n\r\nabc"
        writer.write((GET + post) * 20)
        for _ in range(20):
            assert b"200" in await head(reader)
            async with asyncio.timeout(PATIENCE):
                assert await reader.readexactly(1) == b"0"
            assert b"200" in await head(reader)
            async with asyncio.timeout(PATIENCE):
                assert await reader.readexactly(1) == b"3"
        assert server.slow == {}


async def test_what_is_no_http_gets_a_problem_document() -> None:
    async with serving() as server:
        answer = await server.exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


async def test_many_slow_clients_do_not_keep_others_waiting() -> None:
    async with serving() as server:
        slow = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
        body_head = b"POST /small HTTP/1.1\r\nHost: depth\r\nContent-Length: 1000000\r\n\r\n"
        dripping = [
            asyncio.create_task(drip(writer, (b"GET / HTTP/1.1\r\nX: " if index % 2 else body_head) + b"x" * 10_000))
            for index, (_, writer) in enumerate(slow)
        ]
        served = 0
        while any(not task.done() for task in dripping):
            assert (await server.exchange(GET)).startswith(b"HTTP/1.1 200 ")
            served += 1
        for _, writer in slow:
            writer.transport.abort()
        await asyncio.gather(*dripping)
        assert served > 0
        assert sum(server.slow.values()) == 200
