"""Who owns the number of replicas when autoscaling begins and ends, on a real API server."""

from __future__ import annotations

import pytest

from depth_operator.api.conditions import find_condition
from depth_operator.api.naming import FIELD_MANAGER, REPLICAS_FIELD_MANAGER
from depth_operator.manifests import field_owners
from tests.apiserver.kubernetes_client import KubernetesClient, wait_until
from tests.apiserver.reconciling import NAME, Operator, autoscaling, declare, play_autoscaler, play_kubelet, pods

pytestmark = pytest.mark.cluster


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
    await operator.settle()
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
    await operator.settle()
    assert set(operator.api.replicas) == {minimum}
    assert FIELD_MANAGER not in field_owners(operator.child("deployments"), ("spec", "replicas"))
