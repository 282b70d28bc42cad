"""The questions to kube-apiserver, against a server on loopback that plays it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from depth_operator.metrics_api.authentication import User
from depth_operator.metrics_api.cluster import ClusterError, KubernetesCluster, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LIST = "/apis/depthserving.dev/v1alpha1/depthservices"


def service(name: str, version: str = "1") -> dict[str, Any]:
    return {"metadata": {"namespace": "vision", "name": name, "resourceVersion": version}}


@dataclass
class ApiServer:
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    reviews: list[dict[str, Any]] = field(default_factory=list)
    allowed: bool = True
    status: int = 200
    events: list[dict[str, Any]] = field(default_factory=list)

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get(LIST, self._list)
        application.router.add_get("/apis/depthserving.dev/v1alpha1/namespaces/vision/depthservices", self._list)
        application.router.add_post("/apis/authorization.k8s.io/v1/subjectaccessreviews", self._review)
        application.router.add_get(
            "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication", self._config_map
        )
        return application

    async def _list(self, request: web.Request) -> web.Response:
        self.requests.append((request.path, dict(request.query)))
        if self.status != 200:
            return web.json_response({"kind": "Status", "code": self.status}, status=self.status)
        if request.query.get("watch"):
            return web.Response(text="".join(json.dumps(event) + "\n" for event in self.events))
        last = request.query.get("continue") == "more"
        page = [service("c")] if last else [service("a"), service("b")]
        return web.json_response(
            {"items": page, "metadata": {"resourceVersion": "7", "continue": "" if last else "more"}}
        )

    async def _review(self, request: web.Request) -> web.Response:
        review = await request.json()
        self.reviews.append(review)
        return web.json_response({**review, "status": {"allowed": self.allowed}}, status=201)

    async def _config_map(self, _: web.Request) -> web.Response:
        if self.status != 200:
            return web.Response(text="proxy says no", status=self.status)
        return web.json_response({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "b"}})


@pytest.fixture
async def api() -> AsyncIterator[tuple[ApiServer, str]]:
    server = ApiServer()
    runner = web.AppRunner(server.application(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield server, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def cluster(folder: Path, address: str, namespace: str | None = None) -> KubernetesCluster:
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": address}}],
        "users": [{"name": "x", "user": {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(kubeconfig))
    return KubernetesCluster(connect({"KUBECONFIG": str(path)}), namespace=namespace, timeout_seconds=2.0)


async def test_lists_page_by_page(api: tuple[ApiServer, str], tmp_path: Path) -> None:
    server, address = api

    services, version = await asyncio.to_thread(cluster(tmp_path, address).list_services)

    assert [item["metadata"]["name"] for item in services] == ["a", "b", "c"]
    assert version == "7"
    assert [query.get("limit") for _, query in server.requests] == ["500", "500"]


async def test_lists_only_the_watched_namespace(api: tuple[ApiServer, str], tmp_path: Path) -> None:
    server, address = api

    await asyncio.to_thread(cluster(tmp_path, address, "vision").list_services)

    assert {path for path, _ in server.requests} == {"/apis/depthserving.dev/v1alpha1/namespaces/vision/depthservices"}


async def test_watches_from_a_version_for_a_while(api: tuple[ApiServer, str], tmp_path: Path) -> None:
    server, address = api
    server.events = [
        {"type": "MODIFIED", "object": service("a", "8")},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}},
    ]

    events = await asyncio.to_thread(lambda: list(cluster(tmp_path, address).watch_services("7", 30.0)))

    assert [(kind, item["metadata"]["resourceVersion"]) for kind, item in events] == [
        ("MODIFIED", "8"),
        ("BOOKMARK", "9"),
    ]
    ((_, query),) = server.requests
    assert (query["resourceVersion"], query["timeoutSeconds"], query["allowWatchBookmarks"]) == ("7", "30", "true")


@pytest.mark.parametrize(
    ("status", "events", "message"),
    [
        (403, [], "cannot watch DepthServices: 403 Forbidden"),
        (
            200,
            [{"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}],
            "410 Expired: too old",
        ),
        (200, [{"no": "event"}], "cannot watch DepthServices: KeyError"),
    ],
)
async def test_a_watch_that_ends_badly(
    api: tuple[ApiServer, str], tmp_path: Path, status: int, events: list[dict[str, Any]], message: str
) -> None:
    server, address = api
    server.status, server.events = status, events

    with pytest.raises(ClusterError, match=message):
        await asyncio.to_thread(lambda: list(cluster(tmp_path, address).watch_services("7", 30.0)))


@pytest.mark.parametrize("allowed", [True, False])
async def test_reviews_the_whole_user(api: tuple[ApiServer, str], tmp_path: Path, allowed: bool) -> None:
    server, address = api
    server.allowed = allowed
    user = User("ann", ("a", "b"), "7", (("scopes", ("read",)),))

    assert await cluster(tmp_path, address).may_read(user, "vision") is allowed

    (review,) = server.reviews
    assert review["spec"] == {
        "user": "ann",
        "groups": ["a", "b"],
        "uid": "7",
        "extra": {"scopes": ["read"]},
        "resourceAttributes": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "resource": "depthservice_desired_replicas",
            "namespace": "vision",
            "verb": "list",
        },
    }


async def test_reads_the_front_proxy_configuration(api: tuple[ApiServer, str], tmp_path: Path) -> None:
    server, address = api
    assert await cluster(tmp_path, address).front_proxy_config() == {"a": "b"}

    server.status = 403
    with pytest.raises(ClusterError, match="read ConfigMap kube-system/extension-apiserver-authentication: 403"):
        await cluster(tmp_path, address).front_proxy_config()


async def test_nobody_listens(tmp_path: Path) -> None:
    unreachable = cluster(tmp_path, "http://127.0.0.1:1")

    with pytest.raises(ClusterError, match="cannot list DepthServices"):
        await asyncio.to_thread(unreachable.list_services)
    with pytest.raises(ClusterError, match="SubjectAccessReview"):
        await unreachable.may_read(User("ann"), "vision")
    unreachable.close()
