"""Requests to the API server: the fence of the leader, time limits, and what an answer means."""

from __future__ import annotations

import json
import threading
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import kubernetes.client
import pytest

from depth_operator.adapters.kubernetes import KubernetesApi, KubernetesCluster
from depth_operator.api.naming import Key
from depth_operator.errors import (
    ApiError,
    ConflictError,
    NotFoundError,
    NotLeadingError,
    RefusedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = Key("default", "depth")


class ApiServer:
    """Answers every request with what a test sets, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b"{}"
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answers = threading.Event()
        self.answers.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.command, self.path, dict(self.headers)))
                outer.answers.wait(10)
                self.send_response(outer.status)
                for name, value in {"Content-Length": str(len(outer.body)), **outer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(outer.body)

            do_GET = do_PATCH = do_DELETE = do_POST = do_PUT = do  # noqa: N815 - the names that http.server calls

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.answers.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(10)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with closing(ApiServer()) as running:
        yield running


class Credentials:
    """What `load` gives; the token may change between two calls."""

    def __init__(self, server: ApiServer) -> None:
        self.host = f"http://127.0.0.1:{server.http.server_port}"
        self.token = "first"  # noqa: S105 - not a secret

    def __call__(self) -> kubernetes.client.Configuration:
        configuration = kubernetes.client.Configuration(host=self.host)
        configuration.api_key = {"authorization": f"Bearer {self.token}"}
        return configuration


@pytest.fixture
def credentials(server: ApiServer) -> Credentials:
    return Credentials(server)


@pytest.fixture
def api(credentials: Credentials) -> Iterator[KubernetesApi]:
    with closing(KubernetesApi(credentials, timeout_seconds=0.3, concurrency=2)) as running:
        yield running


def cluster(api: KubernetesApi, *, leading: bool = True) -> KubernetesCluster:
    return KubernetesCluster(
        api, watch_namespace=None, identity="me", is_leading=lambda: leading, wall=lambda: "2026-01-01T00:00:00Z"
    )


MANIFEST: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "depth", "namespace": "default", "uid": "1", "resourceVersion": "7"},
}


async def test_no_write_leaves_a_process_that_does_not_lead(server: ApiServer, api: KubernetesApi) -> None:
    follower = cluster(api, leading=False)
    with pytest.raises(NotLeadingError):
        await follower.apply(MANIFEST, "depth-operator")
    with pytest.raises(NotLeadingError):
        await follower.delete(MANIFEST)
    with pytest.raises(NotLeadingError):
        await follower.apply_status(MANIFEST, {})
    with pytest.raises(NotLeadingError):
        await follower.create_event(MANIFEST, event_type="Normal", reason="R", action="A", message="m")
    assert server.requests == []
    await follower.get_child("Service", KEY)
    assert [method for method, _, _ in server.requests] == ["GET"]


def status(reason: str, message: str = "why", **details: Any) -> bytes:
    return json.dumps({"kind": "Status", "reason": reason, "message": message, "details": details}).encode()


@pytest.mark.parametrize(
    ("code", "body", "error"),
    [
        (403, status("Forbidden"), RefusedError),
        (422, status("Invalid"), RefusedError),
        (422, status("Invalid", causes=[{"field": "metadata.uid"}]), ConflictError),
        (404, status("NotFound"), NotFoundError),
        (409, status("Conflict"), ConflictError),
        (429, status("TooManyRequests"), UnavailableError),
        (401, status("Unauthorized"), UnavailableError),
        (502, b"<html>bad gateway</html>", UnavailableError),
    ],
)
async def test_what_an_answer_means(
    server: ApiServer, api: KubernetesApi, code: int, body: bytes, error: type[ApiError]
) -> None:
    server.status, server.body = code, body
    with pytest.raises(error) as caught:
        await cluster(api).apply(MANIFEST, "depth-operator")
    assert str(caught.value).startswith("apply Service default/depth: ")


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b"", b"\xff", b"[]"])
async def test_a_good_answer_that_is_no_object_is_an_error_to_be_retried(
    server: ApiServer, api: KubernetesApi, body: bytes
) -> None:
    server.body = body
    with pytest.raises(UnavailableError, match="get Service default/depth: InvalidAnswer: answered 200 with something"):
        await cluster(api).get_child("Service", KEY)


async def test_the_wish_for_a_pause_is_kept(server: ApiServer, api: KubernetesApi) -> None:
    server.status, server.headers = 429, {"Retry-After": "7"}
    with pytest.raises(UnavailableError) as caught:
        await cluster(api).get_child("Service", KEY)
    assert caught.value.retry_after_seconds == 7


async def test_the_trouble_is_that_of_the_last_request(server: ApiServer, api: KubernetesApi) -> None:
    async def trouble(status: int) -> str | None:
        server.status = status
        with suppress(ApiError):
            await cluster(api).get_child("Service", KEY)
        return api.trouble

    assert api.trouble == "no request has been answered yet"
    assert await trouble(200) is None
    assert await trouble(503) == "get Service default/depth: 503"
    assert await trouble(404) is None, "an answer"
    assert await trouble(401) == "get Service default/depth: 401"
    server.answers.clear()
    assert await trouble(200) == "get Service default/depth: no answer"


async def test_a_server_that_does_not_answer_is_given_up(server: ApiServer, api: KubernetesApi) -> None:
    server.answers.clear()
    with pytest.raises(UnavailableError, match="get Service default/depth: Unreachable"):
        await cluster(api).get_child("Service", KEY)


async def test_an_expired_token_is_read_anew(server: ApiServer, api: KubernetesApi, credentials: Credentials) -> None:
    server.status = 401
    credentials.token = "second"  # noqa: S105 - not a secret
    with pytest.raises(UnavailableError):
        await cluster(api).get_child("Service", KEY)
    server.status = 200
    await cluster(api).get_child("Service", KEY)
    assert [headers["authorization"] for _, _, headers in server.requests] == ["Bearer first", "Bearer second"]


async def test_an_absent_object_is_none_and_its_deletion_no_error(server: ApiServer, api: KubernetesApi) -> None:
    server.status = 404
    assert await cluster(api).get_depth_service(KEY) is None
    await cluster(api).delete(MANIFEST)


async def test_the_status_carries_the_version_that_was_read(server: ApiServer, api: KubernetesApi) -> None:
    await cluster(api).apply_status(MANIFEST, {"replicas": 1})
    method, path, headers = server.requests[0]
    assert method == "PATCH"
    assert path == (
        "/apis/depthserving.dev/v1alpha1/namespaces/default/depthservices/depth/status"
        "?fieldManager=depth-operator&force=true"
    )
    assert headers["Content-Type"] == "application/apply-patch+yaml"
