"""Two hundred slow clients against the real server process, while others are served."""

import contextlib
import re
import selectors
import socket
import threading
from typing import Any, Self

import httpx
import pytest

from tests.server.hostile_corpus import encoded, picture

pytestmark = pytest.mark.server

CLIENTS = 200
SECONDS = 60.0
SLOW_HEAD = b"POST /predict HTTP/1.1\r\nHost: depth\r\nX-Padding: "
SLOW_BODY = (
    b"POST /predict HTTP/1.1\r\nHost: depth\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b'Content-Length: 1000000\r\n\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
)


class Attack:
    """Connections that send one byte now and then, until the server has closed them all."""

    def __init__(self, host: str, port: int) -> None:
        self.closed = 0
        self.answers: list[bytes] = []
        self._stop = threading.Event()
        self._sockets = [socket.create_connection((host, port)) for _ in range(CLIENTS)]
        self._thread = threading.Thread(target=self._run, name="attack")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(SECONDS)
        for connection in self._sockets:
            connection.close()

    def wait_until_over(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), f"{self.closed} of {CLIENTS} connections are closed"

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, connection in enumerate(self._sockets):
                connection.sendall(SLOW_BODY if index % 2 else SLOW_HEAD)
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ)
            while self.closed < CLIENTS and not self._stop.is_set():
                for key, _ in selector.select(0.2):
                    self._read(selector, key.fileobj)
                for key in list(selector.get_map().values()):
                    with contextlib.suppress(OSError):
                        key.fileobj.send(b"x")  # type: ignore[union-attr]  # a socket

    def _read(self, selector: selectors.BaseSelector, connection: Any) -> None:
        try:
            answer = connection.recv(4096)
        except ConnectionError:
            answer = b""
        if answer:
            self.answers.append(answer)
            return
        selector.unregister(connection)
        self.closed += 1


def test_others_are_served_while_slow_clients_attack(start_server: Any) -> None:
    server = start_server(HEAD_TIMEOUT_SECONDS="2", BODY_GRACE_SECONDS="2", MAX_QUEUED_REQUESTS="256")
    url = httpx.URL(server.wait_for_ready())
    photo = encoded(picture(), "JPEG")
    with httpx.Client(base_url=url, timeout=SECONDS) as client, Attack(url.host, url.port or 80) as attack:
        for _ in range(10):
            response = client.post("/predict", files={"file": photo})
            assert response.status_code == 200, response.text
            assert client.get("/healthz").status_code == 200
        attack.wait_until_over()
        assert client.post("/predict", files={"file": photo}).status_code == 200
        metrics = client.get("/metrics").text
    assert attack.closed == CLIENTS
    assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in attack.answers)
    counts = re.findall(r'^depth_server_slow_clients_total\{phase="(head|body)"\} (\d+)', metrics, re.MULTILINE)
    assert sum(int(count) for _, count in counts) == CLIENTS
    assert re.search(r"^depth_server_inflight_requests 0\.0$", metrics, re.MULTILINE)
    assert "Traceback" not in server.log
