"""Who owns ``spec.replicas`` of the Deployment, and the steps by which it changes hands. Pure.

A field that its only owner no longer applies is removed by server-side apply and defaulted anew: for ``spec.replicas``
that is 1, an outage for a service that runs on ten (https://kubernetes.io/docs/reference/using-api/server-side-apply/
#transferring-ownership). So before the operator stops applying the field, a second field manager takes it over with its
present value; the autoscaler then takes it from there by its first write. Each step is computed from the live object,
so a process that is killed between two steps goes on with the next one.

There is one value that is not handed over: fewer than the minimum. An autoscaler takes a workload at 0 for one that was
turned off and never scales it again (https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/
#implicit-maintenance-mode-deactivation), so a service that comes from ``replicas: 0``, or whose Deployment somebody
scaled to 0, is raised to ``minReplicas``. From there on the number is the autoscaler's, which never goes below it.
"""

from __future__ import annotations

from dataclasses import dataclass

from depth_operator.api.naming import FIELD_MANAGER, REPLICAS_FIELD_MANAGER
from depth_operator.manifests import Manifest, field_owners
from depth_operator.observe import deployment_replicas


@dataclass(frozen=True, slots=True)
class ApplyStep:
    """One server-side apply."""

    manifest: Manifest
    field_manager: str = FIELD_MANAGER


def owns_replicas_alone(live: Manifest) -> bool:
    """Whether the value would be lost if the operator stopped applying it."""
    return field_owners(live, ("spec", "replicas")) == {FIELD_MANAGER}


def set_replicas(live: Manifest, replicas: int) -> ApplyStep:
    """Let `REPLICAS_FIELD_MANAGER` own the number; fails if the object changed since it was read."""
    metadata = live["metadata"]
    return ApplyStep(
        {
            "apiVersion": live["apiVersion"],
            "kind": live["kind"],
            "metadata": {
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "spec": {"replicas": replicas},
        },
        REPLICAS_FIELD_MANAGER,
    )


def step_before_omitting(
    live: Manifest | None, *, initial: Manifest, initial_replicas: int, min_replicas: int
) -> ApplyStep | None:
    """What has to come before a Deployment may be applied without ``spec.replicas``.

    Args:
        live: The Deployment as it is, None if there is none.
        initial: The Deployment with its first number of replicas.
        initial_replicas: That number; 1 is what the field defaults to, so nothing has to be handed over.
        min_replicas: ``minReplicas``: a lower number is raised to it. 0 while an autoscaler that is no longer declared
            is being deleted.

    Returns:
        The next step, None if the field may be omitted.
    """
    if live is None:
        return ApplyStep(initial) if initial_replicas != 1 else None
    replicas = deployment_replicas(live)
    if replicas < min_replicas or owns_replicas_alone(live):
        return set_replicas(live, max(replicas, min_replicas))
    return None
