"""Connections that do nothing must not make a healthy server look dead."""

import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.conftest import StartServer, wait_until
from tests.unit.depth_server.hostile_images import encoded, photo

pytestmark = pytest.mark.server

LIMIT = 4
PATHS = ("/healthz", "/readyz", "/metrics")
UPLOAD_HEAD = (
    b"POST /predict HTTP/1.1\r\nHost: depth\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5000\r\n\r\n--x\r\n"
)


def connect(stack: ExitStack, url: str, sent: bytes = b"") -> socket.socket:
    target = urlsplit(url)
    connection = stack.enter_context(socket.create_connection((target.hostname or "", target.port or 0), timeout=60))
    connection.sendall(sent)
    return connection


def statuses(url: str) -> list[int]:
    return [httpx.get(url + path, timeout=60).status_code for path in PATHS]


def predict(url: str) -> httpx.Response:
    return httpx.post(url + "/predict", files={"file": encoded(photo(), "PNG")}, timeout=60)


def unavailable(url: str) -> str:
    text = httpx.get(url + "/metrics", timeout=60).text
    return next(line for line in text.splitlines() if line.startswith('depth_server_requests_total{outcome="unavail'))


def test_connections_beyond_the_limit(start_server: StartServer) -> None:
    process = start_server(MAX_CONNECTIONS=str(LIMIT))
    url = process.wait_for_ready()

    with ExitStack() as stack:
        silent = [connect(stack, url) for _ in range(LIMIT)]
        kept = [connect(stack, url, b"GET /healthz HTTP/1.1\r\nHost: depth\r\n\r\n") for _ in range(LIMIT)]
        assert all(connection.recv(4096).startswith(b"HTTP/1.1 200 ") for connection in kept)
        assert all(connection.recv(1) == b"" for connection in silent)
        assert statuses(url) == [200, 200, 200]
        assert predict(url).status_code == 200

    with ExitStack() as stack:
        uploads = [connect(stack, url, UPLOAD_HEAD) for _ in range(LIMIT)]
        wait_until(
            lambda: f"depth_server_inflight_requests {LIMIT:.1f}" in httpx.get(url + "/metrics", timeout=60).text,
            "the uploads to be accepted",
        )
        assert statuses(url) == [200, 200, 200]
        refused = predict(url)
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:depthserving:problem:too-many-connections"
        assert refused.headers["retry-after"] == "1"
        assert unavailable(url).endswith(" 1.0")
        uploads[0].sendall(b"x" * (5000 - len("--x\r\n")))
        assert uploads[0].recv(4096).startswith(b"HTTP/1.1 400 ")
        assert predict(url).status_code == 200
