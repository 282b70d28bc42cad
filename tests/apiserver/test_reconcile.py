"""The reconciler against a real API server, controller manager and scheduler; the test plays kubelet and autoscaler."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from depth_operator.adapters.kubernetes import KubernetesApi, KubernetesCluster, load_configuration
from depth_operator.adapters.no_metrics import NoMetrics
from depth_operator.api.conditions import find_condition
from depth_operator.api.naming import FIELD_MANAGER, REPLICAS_FIELD_MANAGER, Key
from depth_operator.errors import ConflictError
from depth_operator.manifests import field_owners
from depth_operator.reconciler import Config, Reconciler, Result
from depth_operator.run import wall_seconds
from tests.apiserver.kubernetes_client import KubernetesClient, Object, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.cluster

NAME = "depth"
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class RecordingApi(KubernetesApi):
    """Remembers every write, and every number of replicas that a Deployment had right after one."""

    writes: list[str]
    replicas: list[int]

    async def request(self, operation: str, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = await super().request(operation, method, path, **options)
        if method in WRITES:
            self.writes.append(operation.rpartition(" ")[0])
            if answer.get("kind") == "Deployment":
                self.replicas.append(answer["spec"]["replicas"])
        return answer


@dataclass
class Operator:
    """A reconciler as a process of the operator has it."""

    reconciler: Reconciler
    cluster: KubernetesCluster
    api: RecordingApi
    key: Key
    client: KubernetesClient
    writes: list[str] = field(default_factory=list)

    async def reconcile(self, *, full: bool = False) -> Result:
        """Reconcile once; `writes` then holds what that wrote, Events aside."""
        self.api.writes = []
        result = await self.reconciler.reconcile(self.key, full=full)
        self.writes = [write for write in self.api.writes if not write.startswith("create Event")]
        return result

    async def settle(self) -> None:
        """Reconcile until nothing is written any more."""
        for _ in range(10):
            await self.reconcile()
            if not self.writes:
                return
        raise AssertionError(f"still writing: {self.writes}")

    @property
    def status(self) -> Object:
        service = self.client.get("depthservices", self.key.namespace, NAME)
        assert service is not None
        status: Object = service.get("status") or {}
        return status

    def condition(self, name: str) -> tuple[str, str]:
        found = find_condition(self.status["conditions"], name)
        assert found is not None, name
        return found["status"], found["reason"]

    def child(self, plural: str) -> Object:
        child = self.client.get(plural, self.key.namespace, NAME)
        assert child is not None, plural
        return child


@asynccontextmanager
async def started(client: KubernetesClient, namespace: str) -> AsyncIterator[Operator]:
    """A new process of the operator: it remembers nothing."""
    api = RecordingApi(lambda: load_configuration(str(client.kubeconfig)), timeout_seconds=5, concurrency=4)
    api.writes, api.replicas = [], []
    cluster = KubernetesCluster(
        api, watch_namespace=namespace, identity="test", is_leading=lambda: True, wall=wall_seconds
    )
    config = Config(server_image="image:1", scaling_interval_seconds=5, signals_refresh_seconds=30)
    reconciler = Reconciler(cluster, NoMetrics(), config, monotonic=time.monotonic, wall=wall_seconds)
    try:
        yield Operator(reconciler, cluster, api, Key(namespace, NAME), client)
    finally:
        api.close()


@pytest.fixture
async def operator(client: KubernetesClient, namespace: str) -> AsyncIterator[Operator]:
    async with started(client, namespace) as running:
        yield running


def declare(client: KubernetesClient, namespace: str, **spec: Any) -> Object:
    """Create or change the DepthService as a user's ``kubectl apply --server-side`` does."""
    body = {
        "apiVersion": "depthserving.dev/v1alpha1",
        "kind": "DepthService",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {"model": {"variant": "ViTS14", "source": {"imageBundled": {"path": "/models/a.pth"}}}, **spec},
    }
    return client.apply("depthservices", body, field_manager="user")


def autoscaling(minimum: int, maximum: int) -> dict[str, int]:
    return {"minReplicas": minimum, "maxReplicas": maximum}


def play_autoscaler(operator: Operator, replicas: int) -> None:
    """Write the number as the HorizontalPodAutoscaler's controller does: by the scale subresource."""
    namespace = operator.key.namespace
    operator.client.merge("deployments", namespace, NAME, {"spec": {"replicas": replicas}}, "scale", fieldManager="hpa")


def pods(operator: Operator) -> list[Object]:
    selector = f"app.kubernetes.io/instance={NAME}"
    found = operator.client.list("pods", operator.key.namespace, labelSelector=selector)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def play_kubelet(operator: Operator, *, count: int, which: Callable[[Object], bool] = lambda _: True) -> None:
    """Make the pods ready, once the controller manager has created them."""
    matching = wait_until(
        lambda: found if len(found := [pod for pod in pods(operator) if which(pod)]) >= count else None,
        what=f"{count} pods",
        explain=lambda: str(operator.child("deployments").get("status")),
    )
    for pod in matching:
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        operator.client.merge("pods", operator.key.namespace, pod["metadata"]["name"], {"status": status}, "status")


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


async def test_dropping_a_field_that_is_solely_owned_sets_it_to_its_default(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    """Why the hand-over exists: without it an autoscaled service would fall to one replica when autoscaling begins."""
    declare(client, namespace, replicas=5)
    await operator.settle()
    applied = operator.child("deployments")
    body = {key: applied[key] for key in ("apiVersion", "kind")}
    body["metadata"] = {"name": NAME, "namespace": namespace}
    body["spec"] = {key: applied["spec"][key] for key in ("selector", "template")}
    assert client.apply("deployments", body, field_manager=FIELD_MANAGER)["spec"]["replicas"] == 1


async def test_when_autoscaling_begins_the_replicas_never_change(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace, replicas=5)
    await operator.settle()
    operator.api.replicas = []
    declare(client, namespace, autoscaling=autoscaling(1, 8))
    await operator.settle()
    assert set(operator.api.replicas) == {5}
    owners = field_owners(operator.child("deployments"), ("spec", "replicas"))
    assert FIELD_MANAGER not in owners
    assert REPLICAS_FIELD_MANAGER in owners


@pytest.mark.parametrize("fixed", [0, 2])
async def test_when_autoscaling_begins_below_the_minimum_it_begins_with_the_minimum(
    client: KubernetesClient, namespace: str, operator: Operator, fixed: int
) -> None:
    declare(client, namespace, replicas=fixed)
    await operator.settle()
    declare(client, namespace, autoscaling=autoscaling(3, 8))
    await operator.settle()
    assert operator.child("deployments")["spec"]["replicas"] == 3
    assert FIELD_MANAGER not in field_owners(operator.child("deployments"), ("spec", "replicas"))
    assert operator.status["desiredReplicas"] == 3
    play_kubelet(operator, count=3)
    await operator.reconcile()
    assert operator.condition("Ready") == ("True", "Available")
    play_autoscaler(operator, 5)
    await operator.settle()
    assert operator.child("deployments")["spec"]["replicas"] == 5


async def test_an_autoscaled_service_that_was_scaled_to_zero_by_hand_comes_back(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    """At 0 an autoscaler turns itself off, so it would stay there for ever."""
    declare(client, namespace, autoscaling=autoscaling(1, 8))
    await operator.settle()
    play_autoscaler(operator, 0)
    wait_until(
        lambda: (
            operator.child("deployments")["metadata"]["generation"]
            == operator.child("deployments").get("status", {}).get("observedGeneration")
        ),
        what="the scaling to 0",
    )
    await operator.settle()
    assert operator.child("deployments")["spec"]["replicas"] == 1
    ready = find_condition(operator.status["conditions"], "Ready")
    assert ready is not None
    assert ready["reason"] in {"Creating", "WaitingForGPU"}
    wait_until(lambda: pods(operator), what="a pod", explain=lambda: str(operator.child("deployments").get("status")))


async def test_while_autoscaled_the_autoscalers_number_stays(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace, autoscaling=autoscaling(1, 8))
    await operator.settle()
    play_autoscaler(operator, 6)
    declare(client, namespace, autoscaling=autoscaling(1, 8), runtime={"inputSize": 392})
    await operator.reconcile()
    await operator.reconcile(full=True)
    assert operator.child("deployments")["spec"]["replicas"] == 6
    assert REPLICAS_FIELD_MANAGER not in field_owners(operator.child("deployments"), ("spec", "replicas"))


async def test_when_autoscaling_ends_the_declared_number_is_written_after_the_autoscaler_is_gone(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace, autoscaling=autoscaling(1, 8))
    await operator.settle()
    play_autoscaler(operator, 6)
    declare(client, namespace, replicas=2)
    await operator.reconcile()
    assert operator.writes[:2] == ["delete HorizontalPodAutoscaler", "apply Deployment"]
    assert client.get("horizontalpodautoscalers", namespace, NAME) is None
    assert operator.child("deployments")["spec"]["replicas"] == 2
    assert "autoscaling" not in operator.status
    play_autoscaler(operator, 6)
    await operator.reconcile()
    assert operator.child("deployments")["spec"]["replicas"] == 2, "a late write of the autoscaler does not last"


async def test_an_autoscaler_that_is_still_there_keeps_the_replicas(
    client: KubernetesClient, namespace: str, operator: Operator
) -> None:
    declare(client, namespace, autoscaling=autoscaling(1, 8))
    await operator.settle()
    play_autoscaler(operator, 6)
    client.merge("horizontalpodautoscalers", namespace, NAME, {"metadata": {"finalizers": ["example.com/hold"]}})
    declare(client, namespace, replicas=2)
    result = await operator.reconcile()
    assert result.retry
    assert operator.child("deployments")["spec"]["replicas"] == 6
    client.merge("horizontalpodautoscalers", namespace, NAME, {"metadata": {"finalizers": None}})
    await operator.reconcile()
    assert operator.child("deployments")["spec"]["replicas"] == 2


@pytest.mark.parametrize("minimum", [1, 3])
async def test_a_new_autoscaled_service_starts_with_its_minimum(
    client: KubernetesClient, namespace: str, operator: Operator, minimum: int
) -> None:
    declare(client, namespace, autoscaling=autoscaling(minimum, 8))
    await operator.reconcile()
    assert set(operator.api.replicas) == {minimum}
    assert FIELD_MANAGER not in field_owners(operator.child("deployments"), ("spec", "replicas"))


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


def has_condition(manifest: Object, name: str) -> bool:
    return any(item["type"] == name for item in (manifest.get("status") or {}).get("conditions") or [])


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
    wait_until(
        lambda: not any(client.list(plural, namespace) for plural in children), what="everything being collected"
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
