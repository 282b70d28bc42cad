"""The operator as a process, with the documented permissions only: it starts, leads, reacts to events, and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.apiserver.kubernetes_client import KubernetesClient, decode, wait_until
from tests.apiserver.operator_process import OperatorProcess, grant, write_kubeconfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.cluster

Start = "Callable[..., OperatorProcess]"


@pytest.fixture
def start(client: KubernetesClient, namespace: str, tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """Starts operators that serve the test's namespace."""
    cluster = yaml.safe_load(client.kubeconfig.read_text())["clusters"][0]["cluster"]
    kubeconfig = write_kubeconfig(
        tmp_path / "kubeconfig",
        server=cluster["server"],
        authority=decode(cluster["certificate-authority-data"]),
        token=grant(client, namespace),
    )
    processes: list[OperatorProcess] = []

    def start_one(name: str = "operator-0", **settings: str) -> OperatorProcess:
        process = OperatorProcess(tmp_path, kubeconfig, namespace, name, **settings)
        process.start()
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.kill()


def declare(client: KubernetesClient, namespace: str, **spec: Any) -> None:
    source = {"imageBundled": {"path": "/models/a.pth"}}
    body = {
        "apiVersion": "depthserving.dev/v1alpha1",
        "kind": "DepthService",
        "metadata": {"name": "depth", "namespace": namespace},
        "spec": {"model": {"source": source}, **spec},
    }
    client.apply("depthservices", body, field_manager="user")


def test_it_serves_with_the_documented_permissions_and_repairs_at_an_event(
    client: KubernetesClient, namespace: str, start: Callable[..., OperatorProcess]
) -> None:
    operator = start()
    declare(client, namespace, autoscaling={"minReplicas": 2, "maxReplicas": 4})
    for plural in ("deployments", "services", "horizontalpodautoscalers"):
        wait_until(lambda plural=plural: client.get(plural, namespace, "depth"), what=plural, explain=operator.log)
    client.delete("services", namespace, "depth")
    wait_until(lambda: client.get("services", namespace, "depth"), what="the Service again", explain=operator.log)
    declare(client, namespace, replicas=1)
    wait_until(
        lambda: client.get("horizontalpodautoscalers", namespace, "depth") is None,
        what="the autoscaler being gone",
        explain=operator.log,
    )
    wait_until(
        lambda: client.list("events", namespace, fieldSelector="involvedObject.kind=DepthService"),
        what="an Event",
        explain=operator.log,
    )
    assert "forbidden" not in operator.log()
    assert "Traceback" not in operator.log()


def test_its_endpoints_tell_its_health_and_its_work(
    client: KubernetesClient, namespace: str, start: Callable[..., OperatorProcess]
) -> None:
    operator = start()
    operator.wait_leading()
    declare(client, namespace)
    assert operator.get("/healthz") == "ok\n"
    assert operator.get("/readyz") == "ok\n"

    def metrics() -> str:
        return operator.get("/metrics", operator.metrics_port)

    wait_until(lambda: 'depth_operator_reconcile_total{result="success"} 0.0' not in metrics(), what="a reconcile")
    assert "depth_operator_leader 1.0" in metrics()
    assert "depth_operator_reconcile_duration_seconds_bucket" in metrics()
    assert "depth_operator_queue_depth" in metrics()


def test_sigterm_ends_it_well_and_the_next_one_leads_at_once(
    client: KubernetesClient, namespace: str, start: Callable[..., OperatorProcess]
) -> None:
    """By the Lease being given back: it would expire only long after the test has given up."""
    first = start("operator-0", DEPTH_OPERATOR_LEASE_DURATION_SECONDS="600")
    first.wait_leading()
    second = start("operator-1", DEPTH_OPERATOR_LEASE_RETRY_PERIOD_SECONDS="0.2")
    wait_until(lambda: "waiting for the Lease that operator-0 holds" in second.log(), what="the second one waiting")
    assert second.get("/readyz") == "ok\n"
    assert first.terminate() == 0, first.log()
    second.wait_leading()
    assert second.terminate() == 0, second.log()
    lease = client.get("leases", namespace, "depth-operator")
    assert lease is not None
    assert lease["spec"].get("holderIdentity", "") == ""


def test_one_that_waits_for_the_lead_ends_at_sigterm(start: Callable[..., OperatorProcess]) -> None:
    start("operator-0").wait_leading()
    second = start("operator-1")
    wait_until(lambda: "waiting for the Lease" in second.log(), what="the second one waiting", explain=second.log)
    assert second.terminate() == 0, second.log()


def test_a_deposed_leader_exits_with_a_failure(
    client: KubernetesClient, namespace: str, start: Callable[..., OperatorProcess]
) -> None:
    operator = start(DEPTH_OPERATOR_LEASE_RETRY_PERIOD_SECONDS="0.2")
    operator.wait_leading()
    client.merge("leases", namespace, "depth-operator", {"spec": {"holderIdentity": "somebody-else"}})
    assert operator.wait(30) == 1
    assert "the Lease is lost" in operator.log()
    lease = client.get("leases", namespace, "depth-operator")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == "somebody-else"


def test_settings_that_contradict_each_other_are_named(start: Callable[..., OperatorProcess]) -> None:
    operator = start(DEPTH_OPERATOR_API_TIMEOUT_SECONDS="30")
    assert operator.wait(30) == 2
    assert "InvalidSettings" in operator.log()
    assert "DEPTH_OPERATOR_API_TIMEOUT_SECONDS" in operator.log()
    assert "Traceback" not in operator.log()
