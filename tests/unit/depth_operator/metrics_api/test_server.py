"""The API as kube-apiserver, the HorizontalPodAutoscaler and kubectl see it, over real TLS."""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import ClientError

from depth_operator.metrics_api.authentication import User
from depth_operator.metrics_api.server import main, serving
from tests.unit.depth_operator.metrics_api.conftest import (
    HPA,
    Deployment,
    FakeCluster,
    Settings,
    front_proxy_config,
    service,
    wait_for,
)
from tests.unit.depth_operator.metrics_api.pki import Authority

if TYPE_CHECKING:
    from pathlib import Path

GROUP = "/apis/external.metrics.k8s.io"
VALUES = f"{GROUP}/v1beta1/namespaces/vision/depthservice_desired_replicas"
VALUE = f"{VALUES}?labelSelector=depthservice%3Ddepth"
AS_HPA = {"X-Remote-User": HPA, "X-Remote-Group": "system:serviceaccounts"}


async def test_the_autoscaler_reads_what_was_published(deployed: Deployment) -> None:
    status, document = await deployed.get(VALUE, certificate=deployed.front_proxy_certificate(), headers=AS_HPA)

    assert status == 200
    assert (document["kind"], document["apiVersion"]) == ("ExternalMetricValueList", "external.metrics.k8s.io/v1beta1")
    (item,) = document["items"]
    assert (item["metricName"], item["value"]) == ("depthservice_desired_replicas", "3")
    assert item["metricLabels"] == {"depthservice": "depth"}
    assert item["timestamp"].endswith("Z")
    assert deployed.cluster.reviewed == [(User(HPA, ("system:serviceaccounts",)), "vision")]


@pytest.mark.parametrize(
    ("selector", "values"),
    [
        ("depthservice+in+(depth,other)", {"depth": "3", "other": "5"}),
        ("depthservice%3D%3Dother", {"other": "5"}),
        ("depthservice!%3Ddepth", {"other": "5"}),
        ("depthservice", {"depth": "3", "other": "5"}),
        ("", {"depth": "3", "other": "5"}),
    ],
)
async def test_selectors(deployed: Deployment, selector: str, values: dict[str, str]) -> None:
    path = f"{VALUES}?labelSelector={selector}" if selector else VALUES
    status, document = await deployed.get(path, certificate=deployed.front_proxy_certificate(), headers=AS_HPA)

    assert status == 200
    assert {item["metricLabels"]["depthservice"]: item["value"] for item in document["items"]} == values


@pytest.mark.parametrize(
    ("path", "code", "reason", "message"),
    [
        (
            f"{VALUES}?labelSelector=depthservice%3Dnew",
            404,
            "NotFound",
            "vision/new does not exist or has not published",
        ),
        (f"{VALUES}?labelSelector=depthservice+in+(depth,new)", 404, "NotFound", "vision/new"),
        (f"{VALUES}?labelSelector=app%3Ddepth", 404, "NotFound", "select by depthservice=<name>"),
        (VALUE.replace("vision", "empty"), 404, "NotFound", "empty/depth"),
        (VALUES.replace("desired", "actual"), 404, "NotFound", "there is depthservice_desired_replicas"),
        (f"{VALUES}?labelSelector=depthservice+in+depth", 400, "BadRequest", "labelSelector"),
        (f"{VALUES}?labelSelector=a%3Db,", 400, "BadRequest", "comma"),
        ("/apis/custom.metrics.k8s.io", 404, "NotFound", "/apis/custom.metrics.k8s.io"),
    ],
)
async def test_errors_are_status_documents(
    deployed: Deployment, path: str, code: int, reason: str, message: str
) -> None:
    status, document = await deployed.get(path, certificate=deployed.front_proxy_certificate(), headers=AS_HPA)

    assert status == document["code"] == code
    assert (document["kind"], document["status"], document["reason"]) == ("Status", "Failure", reason)
    assert message in document["message"]


async def test_other_methods_are_refused_as_status(deployed: Deployment) -> None:
    async with (
        deployed.client(deployed.front_proxy_certificate()) as session,
        session.delete(deployed.url(VALUE), headers=AS_HPA) as response,
    ):
        assert (response.status, (await response.json())["reason"]) == (405, "MethodNotAllowed")


async def test_discovery_is_open_and_complete(deployed: Deployment) -> None:
    status, groups = await deployed.get("/apis")
    _, group = await deployed.get(GROUP)
    _, resources = await deployed.get(f"{GROUP}/v1beta1")

    assert status == 200
    assert groups["groups"][0]["name"] == group["name"] == "external.metrics.k8s.io"
    assert group["preferredVersion"]["groupVersion"] == "external.metrics.k8s.io/v1beta1"
    assert [resource["name"] for resource in resources["resources"]] == ["depthservice_desired_replicas"]
    assert [(await deployed.get(path))[0] for path in ("/openapi/v2", "/openapi/v3")] == [404, 404]
    assert [(await deployed.get(path))[0] for path in ("/healthz", "/livez", "/readyz")] == [200, 200, 200]


class TestWhoMayAsk:
    async def test_no_certificate(self, deployed: Deployment, caplog: pytest.LogCaptureFixture) -> None:
        """The headers alone, which anyone on the network can send, are worth nothing."""
        with caplog.at_level(logging.WARNING):
            status, document = await deployed.get(VALUE, headers={**AS_HPA, "X-Remote-Group": "system:masters"})

        assert (status, document["reason"]) == (401, "Unauthorized")
        assert deployed.cluster.reviewed == []
        assert "refused GET" in caplog.text

    async def test_another_name_of_the_right_authority(self, deployed: Deployment) -> None:
        status, document = await deployed.get(
            VALUE, certificate=deployed.front_proxy_certificate("kubelet"), headers=AS_HPA
        )

        assert status == 401
        assert "'kubelet' is not allowed" in document["message"]

    async def test_two_names(self, deployed: Deployment) -> None:
        certificate = deployed.front_proxy_ca.issue(deployed.folder / "two", "front-proxy-client", "kubelet")

        status, _ = await deployed.get(VALUE, certificate=certificate, headers=AS_HPA)

        assert status == 401

    async def test_another_authority(self, deployed: Deployment) -> None:
        """Such a certificate does not even end the handshake; with the same name and a forged user."""
        certificate = Authority("front-proxy").issue(deployed.folder / "forged", "front-proxy-client")

        with pytest.raises((ClientError, ssl.SSLError)):
            await deployed.get(VALUE, certificate=certificate, headers=AS_HPA)
        assert deployed.cluster.reviewed == []

    async def test_an_expired_certificate(self, deployed: Deployment) -> None:
        certificate = deployed.front_proxy_ca.issue(deployed.folder / "old", "front-proxy-client", expired=True)

        with pytest.raises((ClientError, ssl.SSLError)):
            await deployed.get(VALUE, certificate=certificate, headers=AS_HPA)

    async def test_a_server_certificate_is_no_client_certificate(self, deployed: Deployment) -> None:
        certificate = deployed.front_proxy_ca.issue(deployed.folder / "wrong", "front-proxy-client", server=True)

        with pytest.raises((ClientError, ssl.SSLError)):
            await deployed.get(VALUE, certificate=certificate, headers=AS_HPA)

    async def test_no_user(self, deployed: Deployment) -> None:
        status, document = await deployed.get(VALUE, certificate=deployed.front_proxy_certificate())

        assert status == 401
        assert "names no user" in document["message"]

    async def test_a_user_that_may_not(self, deployed: Deployment) -> None:
        status, document = await deployed.get(
            VALUE, certificate=deployed.front_proxy_certificate(), headers={"X-Remote-User": "mallory"}
        )

        assert (status, document["reason"]) == (403, "Forbidden")
        assert "'mallory' may not list it in namespace 'vision'" in document["message"]

    async def test_nobody_says_who_may(self, deployed: Deployment) -> None:
        deployed.cluster.unreachable = True

        status, document = await deployed.get(VALUE, certificate=deployed.front_proxy_certificate(), headers=AS_HPA)

        assert (status, document["reason"]) == (503, "ServiceUnavailable")

    async def test_any_name_if_the_configuration_names_none(self, deployed: Deployment) -> None:
        deployed.cluster.config = front_proxy_config(deployed.front_proxy_ca, allowed="[]")

        async def read() -> bool:
            certificate = deployed.front_proxy_certificate("aggregator")
            return (await deployed.get(VALUE, certificate=certificate, headers=AS_HPA))[0] == 200

        await wait_for(read, "the new list of names")


class TestChange:
    async def test_events_change_what_is_served(self, deployed: Deployment) -> None:
        certificate = deployed.front_proxy_certificate()

        async def reads(code: int, value: str | None = None) -> bool:
            status, document = await deployed.get(VALUE, certificate=certificate, headers=AS_HPA)
            return status == code and (value is None or document["items"][0]["value"] == value)

        deployed.cluster.events.put(("MODIFIED", service("depth", 7)))
        await wait_for(lambda: reads(200, "7"), "a modified DepthService")
        deployed.cluster.events.put(("DELETED", service("depth", 7)))
        await wait_for(lambda: reads(404), "a deleted DepthService")
        deployed.cluster.events.put(("ADDED", service("depth", 2)))
        await wait_for(lambda: reads(200, "2"), "an added DepthService")

    async def test_a_rotated_front_proxy_authority_costs_no_read(self, deployed: Deployment) -> None:
        """One client reads without pause on one connection while the CA changes; none of its reads fails."""
        old = deployed.front_proxy_certificate()
        successor = Authority("front-proxy-2")
        new = successor.issue(deployed.folder / "new", "front-proxy-client")
        both = front_proxy_config(deployed.front_proxy_ca)
        both["requestheader-client-ca-file"] += successor.pem
        statuses: list[int] = []

        async def read_with_new() -> bool:
            try:
                return (await deployed.get(VALUE, certificate=new, headers=AS_HPA))[0] == 200
            except (ClientError, ssl.SSLError):
                return False

        async def keep_reading(session: aiohttp.ClientSession) -> None:
            while True:
                async with session.get(deployed.url(VALUE), headers=AS_HPA) as response:
                    statuses.append(response.status)
                    await response.read()

        async with deployed.client(old) as session:
            reading = asyncio.create_task(keep_reading(session))
            deployed.cluster.config = both
            await wait_for(read_with_new, "the new CA beside the old one")
            reading.cancel()
            await asyncio.wait([reading])
        assert set(statuses) == {200}

        deployed.cluster.config = front_proxy_config(successor)

        async def old_is_refused() -> bool:
            try:
                await deployed.get(VALUE, certificate=old, headers=AS_HPA)
            except (ClientError, ssl.SSLError):
                return True
            return False

        await wait_for(old_is_refused, "the end of the old CA")
        assert await read_with_new()

    async def test_a_connection_that_a_former_authority_vouched_for_gets_no_further_answer(
        self, deployed: Deployment
    ) -> None:
        """The client asks again by itself, and then fails at the handshake."""
        old = deployed.front_proxy_certificate()
        successor = Authority("front-proxy-2")
        new = successor.issue(deployed.folder / "new", "front-proxy-client")

        async def read_with_new() -> bool:
            try:
                return (await deployed.get(VALUE, certificate=new, headers=AS_HPA))[0] == 200
            except (ClientError, ssl.SSLError):
                return False

        async with deployed.client(old) as session:
            async with session.get(deployed.url(VALUE), headers=AS_HPA) as response:
                assert response.status == 200
                await response.read()
            reviewed = len(deployed.cluster.reviewed)
            deployed.cluster.config = front_proxy_config(successor)
            await wait_for(read_with_new, "the new CA")
            with pytest.raises((ClientError, ssl.SSLError)):
                await session.get(deployed.url(f"{VALUE}&other"), headers={"X-Remote-User": "another"})
            assert User("another") not in [user for user, _ in deployed.cluster.reviewed[reviewed:]]

    async def test_a_renewed_serving_certificate_costs_an_open_connection_nothing(self, deployed: Deployment) -> None:
        renewing = Authority("renewed")

        async def renewed() -> bool:
            try:
                return (await deployed.get("/healthz"))[0] == 200
            except ClientError:
                return False

        async with deployed.client(deployed.front_proxy_certificate()) as session:
            async with session.get(deployed.url(VALUE), headers=AS_HPA) as response:
                await response.read()
            renewing.issue(deployed.folder / "serving", "metrics", server=True)
            deployed.serving_ca = renewing
            await wait_for(renewed, "the renewed certificate")
            # On a new connection the client, which knows the former authority only, would fail.
            async with session.get(deployed.url(VALUE), headers=AS_HPA) as response:
                assert response.status == 200

    async def test_a_renewed_serving_certificate_is_served(self, deployed: Deployment) -> None:
        renewing = Authority("renewed")
        renewing.issue(deployed.folder / "serving", "metrics", server=True)
        deployed.serving_ca = renewing

        async def trusted() -> bool:
            try:
                return (await deployed.get("/healthz"))[0] == 200
            except ClientError:
                return False

        await wait_for(trusted, "the renewed certificate")

    async def test_a_broken_certificate_leaves_the_old_one(
        self, deployed: Deployment, caplog: pytest.LogCaptureFixture
    ) -> None:
        (deployed.folder / "serving" / "tls.crt").write_text("half a certif")

        async def complained() -> bool:
            return "the previous one stays in use" in caplog.text

        await wait_for(complained, "a line in the log")
        assert await deployed.ready()


async def test_not_ready_until_everything_has_been_read(
    tmp_path: Path, serving_ca: Authority, front_proxy_ca: Authority
) -> None:
    cert_file, key_file = serving_ca.issue(tmp_path, "metrics", server=True)
    cluster = FakeCluster(unreachable=True)
    async with serving(Settings(str(cert_file), str(key_file)), cluster) as (api, listener):
        deployment = Deployment(api, listener, cluster, tmp_path, serving_ca, front_proxy_ca)
        status, document = await deployment.get("/readyz")
        assert (status, document["message"]) == (503, "not ready: the front-proxy configuration has not been read")
        assert (await deployment.get("/livez"))[0] == 200
        assert (await deployment.get(VALUE, headers=AS_HPA))[0] == 503

        cluster.config = front_proxy_config(front_proxy_ca)

        async def read_configuration() -> bool:
            return (await deployment.get("/readyz"))[1][
                "message"
            ] == "not ready: the DepthServices have not been listed"

        await wait_for(read_configuration, "the configuration")
        cluster.unreachable = False
        await wait_for(deployment.ready, "the list")
        api.draining = True
        assert (await deployment.get("/readyz"))[1]["message"] == "not ready: shutting down"
        cluster.events.put(None)


def test_a_missing_certificate_ends_the_start_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        '{"apiVersion": "v1", "kind": "Config", "current-context": "x",'
        ' "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],'
        ' "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}], '
        ' "users": [{"name": "x", "user": {}}]}'
    )
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))

    assert main(Settings(str(tmp_path / "none.crt"), str(tmp_path / "none.key"))) == 1
    assert "none.crt: No such file or directory; mount the serving certificate" in caplog.text


def test_no_cluster_ends_the_start_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/does/not/exist")

    assert main(Settings("a", "b")) == 1
    assert "set KUBECONFIG or run in a pod" in caplog.text
