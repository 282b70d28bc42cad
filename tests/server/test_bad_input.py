"""Whatever is sent, the answer is a problem document with the right status, and the server goes on."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.conftest import ServerProcess, wait_until
from tests.unit.depth_server.hostile_images import HostileFile, encoded, hostile_files, photo

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def _server_goes_on(client: httpx.Client) -> Iterator[None]:
    yield
    response = client.post("/predict", files={"file": encoded(photo(), "PNG")})
    assert response.status_code == 200, response.text
    assert client.get("/healthz").status_code == 200


def outcomes(server: ServerProcess, outcome: str) -> float:
    name = f'depth_server_requests_total{{outcome="{outcome}"}} '
    text = httpx.get(server.url + "/metrics", timeout=60).text
    return next(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


def assert_problem(response: httpx.Response, *statuses: int) -> None:
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    assert {"type", "title", "detail"} <= set(body)


@pytest.mark.parametrize("hostile", hostile_files(), ids=lambda hostile: hostile.name)
def test_hostile_file(client: httpx.Client, hostile: HostileFile) -> None:
    assert_problem(client.post("/predict", files={"file": ("photo.jpg", hostile.data)}), *hostile.statuses)


def test_missing_field(client: httpx.Client) -> None:
    assert_problem(client.post("/predict", files={"image": encoded(photo(), "PNG")}), 400)


def test_no_body(client: httpx.Client) -> None:
    assert_problem(client.post("/predict"), 415)


def test_json_instead_of_a_form(client: httpx.Client) -> None:
    assert_problem(client.post("/predict", json={"file": "aGVsbG8="}), 415)


def test_raw_image_is_answered_like_a_form_and_raw_text_is_not(client: httpx.Client) -> None:
    image = encoded(photo(), "PNG")
    raw = client.post("/predict", content=image, headers={"content-type": "image/png"})
    assert raw.status_code == 200, raw.text
    form = client.post("/predict", files={"file": image})
    assert raw.json()["depth_map"] == form.json()["depth_map"]
    assert_problem(client.post("/predict", content=image, headers={"content-type": "text/plain"}), 415)


def test_form_cut_in_its_middle(client: httpx.Client) -> None:
    request = client.build_request("POST", "/predict", files={"file": encoded(photo(), "PNG")})
    headers = {"content-type": request.headers["content-type"]}
    assert_problem(client.post("/predict", content=request.read()[:-60], headers=headers), 400)


def test_too_many_bytes_announced(client: httpx.Client) -> None:
    response = client.post("/predict", files={"file": bytes(6_000_000)})
    assert_problem(response, 413)
    assert "4000000 bytes" in response.json()["detail"]


def test_too_many_bytes_in_chunks(client: httpx.Client) -> None:
    def chunks() -> object:
        yield b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        for _ in range(60):
            yield bytes(100_000)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert_problem(client.post("/predict", content=chunks(), headers=headers), 413)  # type: ignore[arg-type]  # a generator


def test_too_many_bytes_behind_an_expectation_are_never_sent(server: ServerProcess) -> None:
    url = urlsplit(server.url)
    head = (
        "POST /predict HTTP/1.1\r\nHost: depth\r\nExpect: 100-continue\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000000000\r\n\r\n"
    )
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_client_that_leaves_during_its_upload(server: ServerProcess) -> None:
    url = urlsplit(server.url)
    head = (
        "POST /predict HTTP/1.1\r\nHost: depth\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5000\r\n\r\n--x\r\n"
    )
    invalid, abandoned = outcomes(server, "invalid"), outcomes(server, "abandoned")
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=30) as connection:
        connection.sendall(head.encode())
    wait_until(lambda: outcomes(server, "invalid") == invalid + 1, "the departure to be counted")
    assert outcomes(server, "abandoned") == abandoned


def test_not_http_at_all(server: ServerProcess) -> None:
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=30) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert b"400" in connection.recv(4096)


def test_log_has_no_image_data(server: ServerProcess, client: httpx.Client) -> None:
    marker = b"SECRETPIXELS"
    client.post("/predict", files={"file": ("private-name.jpg", b"\xff\xd8\xff\xe0" + marker * 20)})
    assert marker.decode() not in server.log
    assert "private-name" not in server.log
    assert "Traceback" not in server.log
