"""The reconciler against a real API server, controller manager and scheduler; the test plays kubelet and autoscaler."""

from __future__ import annotations

import pytest

from depth_operator.api.conditions import find_condition
from depth_operator.api.naming import FIELD_MANAGER
from depth_operator.errors import ConflictError
from depth_operator.reconciler import Result
from tests.apiserver.kubernetes_client import KubernetesClient, Object, wait_until
from tests.apiserver.reconciling import (
    NAME,
    Operator,
    autoscaling,
    declare,
    has_condition,
    play_autoscaler,
    play_kubelet,
    pods,
    started,
)

pytestmark = pytest.mark.cluster


async def test_a_service_gets_its_children_and_then_nothing_is_written(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace)
    await operator.reconcile()
    assert operator.writes == ["apply Service", "apply Deployment", "apply status of DepthService"]
    assert operator.child("deployments")["spec"]["replicas"] == 1
    assert operator.child("services")["spec"]["ports"][0]["targetPort"] == "http"
    assert client.get("horizontalpodautoscalers", namespace, NAME) is None
    assert operator.status["observedGeneration"] == 1
    assert operator.status["model"] == {"name": "depth_anything_vits14"}
    await operator.settle()
    await operator.reconcile()
    assert operator.writes == []


async def test_no_finalizer_and_no_annotation_is_left_on_the_service(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace)
    await operator.settle()
    metadata = operator.child("depthservices")["metadata"]
    assert "finalizers" not in metadata
    assert "annotations" not in metadata


async def test_a_restart_with_nothing_changed_writes_nothing(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(
        client,
        namespace,
        autoscaling=autoscaling(2, 4),
        resources={"requests": {"cpu": "1000m", "memory": "0.5Gi"}},
        expose={"service": {"type": "NodePort"}},
    )
    await operator.settle()
    play_kubelet(operator, count=2)
    await operator.settle()
    async with started(client, namespace) as restarted:
        await restarted.reconcile()
        assert restarted.writes == []


async def test_a_full_reconcile_applies_everything_and_changes_nothing(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace, autoscaling=autoscaling(1, 4))
    await operator.settle()
    before = {plural: operator.child(plural)["metadata"]["generation"] for plural in ("deployments",)}
    versions = [operator.child(plural)["metadata"]["resourceVersion"] for plural in ("services", "deployments")]
    await operator.reconcile(full=True)
    assert operator.writes[:3] == ["apply Service", "apply Deployment", "apply HorizontalPodAutoscaler"]
    assert before == {plural: operator.child(plural)["metadata"]["generation"] for plural in ("deployments",)}
    assert versions == [operator.child(plural)["metadata"]["resourceVersion"] for plural in ("services", "deployments")]


async def test_drift_is_repaired_and_what_others_add_survives(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace, replicas=2)
    await operator.settle()
    restart = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}
    client.merge("deployments", namespace, NAME, {"spec": {"replicas": 7, "paused": True, "template": restart}})
    client.merge("services", namespace, NAME, {"spec": {"type": "NodePort"}})
    await operator.reconcile()
    assert operator.writes[:2] == ["apply Service", "apply Deployment"]
    deployment = operator.child("deployments")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["paused"] is True
    assert "kubectl.kubernetes.io/restartedAt" in deployment["template"]["metadata"]["annotations"]
    assert operator.child("services")["spec"]["type"] == "ClusterIP"


@pytest.mark.parametrize("plural", ["services", "deployments", "horizontalpodautoscalers"])
async def test_a_deleted_child_comes_back(
    client: KubernetesClient, namespace: str, operator: Operator, plural: str
) -> None:
    declare(client, namespace, autoscaling=autoscaling(1, 4))
    await operator.settle()
    client.delete(plural, namespace, NAME)
    wait_until(lambda: client.get(plural, namespace, NAME) is None, what="the deletion")
    await operator.reconcile()
    operator.child(plural)


async def test_an_object_of_somebody_else_is_never_touched(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    port = {"port": 443, "targetPort": 8443}
    foreign = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME}, "spec": {"ports": [port]}}
    version = client.create("services", foreign, namespace)["metadata"]["resourceVersion"]
    declare(client, namespace)
    result = await operator.reconcile()
    assert result.retry
    assert operator.child("services")["metadata"]["resourceVersion"] == version
    assert operator.condition("Ready") == ("False", "ChildConflict")
    message = find_condition(operator.status["conditions"], "Ready")
    assert message is not None
    assert "Service depth already exists" in message["message"]
    operator.child("deployments")
    client.delete("services", namespace, NAME)
    await operator.reconcile()
    assert operator.condition("Ready")[1] != "ChildConflict"


async def test_a_former_owners_autoscaler_is_not_deleted(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}
    foreign = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": NAME},
        "spec": {"scaleTargetRef": target, "maxReplicas": 3},
    }
    client.create("horizontalpodautoscalers", foreign, namespace)
    declare(client, namespace)
    await operator.settle()
    operator.child("horizontalpodautoscalers")


async def test_ready_follows_the_pods_of_the_present_configuration(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace, replicas=2)
    await operator.reconcile()
    assert operator.condition("Ready")[0] == "False"
    play_kubelet(operator, count=2)
    await operator.reconcile()
    assert operator.condition("Ready") == ("True", "Available")
    assert operator.status["readyReplicas"] == 2
    flipped = find_condition(operator.status["conditions"], "Ready")
    former = {pod["metadata"]["name"] for pod in pods(operator)}
    declare(client, namespace, replicas=2, runtime={"inputSize": 392})
    await operator.reconcile()
    assert operator.condition("Ready")[0] == "False"
    assert operator.condition("WorkloadAvailable") == ("True", "Available")
    assert find_condition(operator.status["conditions"], "Ready") != flipped

    def rolled_out() -> bool:
        play_kubelet(operator, count=1, which=lambda pod: pod["metadata"]["name"] not in former)
        return not former & {pod["metadata"]["name"] for pod in pods(operator)}

    wait_until(rolled_out, what="the rollout", explain=lambda: str(operator.child("deployments").get("status")))
    await operator.reconcile()
    assert operator.condition("Ready") == ("True", "Available")
    assert operator.status["observedGeneration"] == 2


async def test_the_scheduler_is_quoted(client: KubernetesClient, namespace: str, operator: Operator) -> None:
    declare(client, namespace)
    await operator.reconcile()
    wait_until(
        lambda: any(has_condition(pod, "PodScheduled") for pod in pods(operator)), what="the scheduler's verdict"
    )
    await operator.reconcile()
    assert operator.condition("Ready") == ("False", "WaitingForGPU")


async def test_a_missing_claim_is_named(client: KubernetesClient, namespace: str, operator: Operator) -> None:
    source = {"persistentVolumeClaim": {"claimName": "nowhere", "path": "a.pth"}}
    declare(client, namespace, model={"source": source})
    await operator.reconcile()
    wait_until(
        lambda: any(has_condition(pod, "PodScheduled") for pod in pods(operator)), what="the scheduler's verdict"
    )
    await operator.reconcile()
    assert operator.condition("Ready") == ("False", "VolumeMissing")


async def test_a_quota_is_named(client: KubernetesClient, namespace: str, operator: Operator) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    client.request("POST", f"/api/v1/namespaces/{namespace}/resourcequotas", body=quota)
    declare(client, namespace)
    await operator.reconcile()
    wait_until(lambda: has_condition(operator.child("deployments"), "ReplicaFailure"), what="the refused pod")
    await operator.reconcile()
    assert operator.condition("Ready") == ("False", "QuotaExceeded")


async def test_the_pods_are_admitted_under_the_restricted_profile(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    client.merge("namespaces", "", namespace, {"metadata": {"labels": label}})
    declare(client, namespace)
    await operator.reconcile()
    wait_until(lambda: pods(operator), what="a pod", explain=lambda: str(operator.child("deployments").get("status")))


async def test_without_prometheus_the_replicas_hold_and_a_condition_says_so(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace, autoscaling=autoscaling(1, 8))
    await operator.settle()
    play_autoscaler(operator, 4)
    result = await operator.reconcile()
    assert operator.status["autoscaling"]["desiredReplicas"] == 4
    assert operator.condition("MetricsAvailable")[0] == "False"
    assert result.requeue_after_seconds == 5


async def test_deletion_leaves_nothing(client: KubernetesClient, namespace: str, operator: Operator) -> None:
    declare(client, namespace, autoscaling=autoscaling(1, 4))
    await operator.settle()
    client.delete("depthservices", namespace, NAME)
    assert await operator.reconcile() == Result()
    children = ("deployments", "services", "horizontalpodautoscalers", "pods", "replicasets")
    # The garbage collector looks for new kinds every 30 s; one that it does not know yet has no dependents.
    wait_until(
        lambda: not any(client.list(plural, namespace) for plural in children),
        what="everything being collected",
        seconds=120.0,
    )


async def test_a_transition_is_recorded_as_an_event(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace)
    await operator.settle()
    events = client.list("events", namespace, fieldSelector="involvedObject.kind=DepthService")
    assert "Creating" in {event["reason"] for event in events}
    assert {event["source"]["component"] for event in events} == {"depth-operator"}


async def test_a_status_for_a_service_that_was_replaced_is_refused(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    first = declare(client, namespace)
    client.delete("depthservices", namespace, NAME)
    declare(client, namespace)
    with pytest.raises(ConflictError):
        await operator.cluster.apply_status(first, {"url": "http://late.example.com"})
    assert operator.status == {}


async def test_a_child_that_was_replaced_since_it_was_read_is_not_touched(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace, autoscaling=autoscaling(1, 4))
    await operator.settle()
    for plural in ("services", "deployments", "horizontalpodautoscalers"):
        read = operator.child(plural)
        client.delete(plural, namespace, NAME)
        wait_until(lambda plural=plural: client.get(plural, namespace, NAME) is None, what="the deletion")
        with pytest.raises(ConflictError):
            await operator.cluster.apply(identity_of(read), FIELD_MANAGER)
        kept = ("apiVersion", "kind", "spec")
        spec = {key: value for key, value in read["spec"].items() if key not in {"clusterIP", "clusterIPs"}}
        foreign = {**{key: read[key] for key in kept}, "metadata": {"name": NAME}, "spec": spec}
        client.create(plural, foreign, namespace)
        with pytest.raises(ConflictError):
            await operator.cluster.apply(identity_of(read), FIELD_MANAGER)
        with pytest.raises(ConflictError):
            await operator.cluster.delete(read)
        assert "labels" not in operator.child(plural)["metadata"]


def identity_of(read: Object) -> Object:
    metadata = {key: read["metadata"][key] for key in ("name", "namespace", "uid", "labels")}
    return {"apiVersion": read["apiVersion"], "kind": read["kind"], "metadata": metadata}
