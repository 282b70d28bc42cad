"""A metrics API on loopback with real TLS, and a kube-apiserver that is played by the test."""

from __future__ import annotations

import asyncio
import queue
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from depth_operator.metrics_api.cluster import ClusterError
from depth_operator.metrics_api.server import Listener, serving
from tests.unit.depth_operator.metrics_api.pki import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from depth_operator.metrics_api.application import MetricsApi
    from depth_operator.metrics_api.authentication import User

HPA = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"


def service(name: str, desired: int | None, namespace: str = "vision") -> dict[str, Any]:
    status = {} if desired is None else {"autoscaling": {"desiredReplicas": desired}}
    return {"metadata": {"namespace": namespace, "name": name, "resourceVersion": "1"}, "status": status}


@dataclass
class FakeCluster:
    """Answers as told; `events` feeds the watch."""

    config: dict[str, str] = field(default_factory=dict)
    services: list[Mapping[str, Any]] = field(default_factory=list)
    allowed: set[str] = field(default_factory=lambda: {HPA})
    events: queue.Queue[tuple[str, Mapping[str, Any]] | None] = field(default_factory=queue.Queue)
    reviewed: list[tuple[User, str]] = field(default_factory=list)
    unreachable: bool = False

    async def may_read(self, user: User, namespace: str) -> bool:
        self.reviewed.append((user, namespace))
        if self.unreachable:
            raise ClusterError("cannot create a SubjectAccessReview: it is down")
        return user.name in self.allowed

    async def front_proxy_config(self) -> Mapping[str, str]:
        if not self.config:
            raise ClusterError("cannot read ConfigMap: 403 Forbidden")
        return self.config

    def list_services(self) -> tuple[list[Mapping[str, Any]], str]:
        if self.unreachable:
            raise ClusterError("cannot list DepthServices: it is down")
        return self.services, "1"

    def watch_services(self, resource_version: str, seconds: float) -> Iterator[tuple[str, Mapping[str, Any]]]:  # noqa: ARG002
        while (event := self.events.get()) is not None:
            yield event
        raise ClusterError("cannot watch DepthServices: the test is over")


@dataclass
class Settings:
    metrics_api_cert_file: str
    metrics_api_key_file: str
    metrics_api_host: str = "127.0.0.1"
    metrics_api_port: int = 0
    metrics_api_reload_seconds: float = 0.02
    metrics_api_authorization_cache_seconds: float = 10.0
    metrics_api_drain_seconds: float = 0.0
    watch_namespace: str | None = None
    api_timeout_seconds: float = 1.0


@dataclass
class Deployment:
    """A running metrics API with everything that a test may turn."""

    api: MetricsApi
    listener: Listener
    cluster: FakeCluster
    folder: Path
    serving_ca: Authority
    front_proxy_ca: Authority

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.listener.port}{path}"

    @asynccontextmanager
    async def client(self, certificate: tuple[Path, Path] | None) -> AsyncIterator[aiohttp.ClientSession]:
        context = ssl.create_default_context(cadata=self.serving_ca.pem)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            yield session

    def front_proxy_certificate(self, common_name: str = "front-proxy-client") -> tuple[Path, Path]:
        return self.front_proxy_ca.issue(self.folder / common_name, common_name)

    async def get(
        self,
        path: str,
        *,
        certificate: tuple[Path, Path] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        async with self.client(certificate) as session, session.get(self.url(path), headers=headers) as response:
            body = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, (await response.json() if is_json else body)

    async def ready(self) -> bool:
        status, _ = await self.get("/readyz")
        return status == 200


def front_proxy_config(authority: Authority, allowed: str = '["front-proxy-client"]') -> dict[str, str]:
    return {
        "requestheader-client-ca-file": authority.pem,
        "requestheader-allowed-names": allowed,
        "requestheader-username-headers": '["X-Remote-User"]',
        "requestheader-group-headers": '["X-Remote-Group"]',
        "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
    }


async def wait_for(probe: Callable[[], Awaitable[bool]], what: str, timeout_seconds: float = 20.0) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            while not await probe():  # noqa: ASYNC110 - what is waited for happens in a thread or behind a socket
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {timeout_seconds:g} s: {what}") from None


@pytest.fixture(scope="session")
def serving_ca() -> Authority:
    return Authority("serving")


@pytest.fixture(scope="session")
def front_proxy_ca() -> Authority:
    return Authority("front-proxy")


@pytest.fixture
async def deployed(tmp_path: Path, serving_ca: Authority, front_proxy_ca: Authority) -> AsyncIterator[Deployment]:
    cert_file, key_file = serving_ca.issue(tmp_path / "serving", "metrics", server=True)
    cluster = FakeCluster(
        config=front_proxy_config(front_proxy_ca),
        services=[service("depth", 3), service("other", 5), service("new", None), service("depth", 9, "elsewhere")],
    )
    settings = Settings(str(cert_file), str(key_file))
    try:
        async with serving(settings, cluster) as (api, listener):
            deployment = Deployment(api, listener, cluster, tmp_path, serving_ca, front_proxy_ca)
            await wait_for(deployment.ready, "readiness")
            yield deployment
    finally:
        cluster.events.put(None)
