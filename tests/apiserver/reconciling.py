"""A reconciler on a real API server; the test plays user, kubelet and autoscaler."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from depth_operator.adapters.kubernetes import KubernetesApi, KubernetesCluster, load_configuration
from depth_operator.adapters.no_metrics import NoMetrics
from depth_operator.api.conditions import find_condition
from depth_operator.api.naming import Key
from depth_operator.reconciler import Config, Reconciler, Result
from depth_operator.run import wall_seconds
from tests.apiserver.kubernetes_client import KubernetesClient, Object, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

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


def has_condition(manifest: Object, name: str) -> bool:
    return any(item["type"] == name for item in (manifest.get("status") or {}).get("conditions") or [])
