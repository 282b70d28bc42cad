"""The Node object and its Lease. Pure."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from localcluster.settings import KUBELET_PORT, KUBERNETES_VERSION, LEASE_SECONDS, NODE_NAME, ClusterOptions, JsonObject

if TYPE_CHECKING:
    from localcluster.network import ClusterNetwork


MAX_PODS = 110
"""Pods that the node takes, the kubelet's default."""


def capacity(options: ClusterOptions) -> dict[str, str]:
    """Return capacity and allocatable resources; nothing is enforced, requests are accounting only."""
    resources = {
        "cpu": str(options.cpus),
        "memory": options.memory,
        "ephemeral-storage": "100Gi",
        "pods": str(MAX_PODS),
    }
    return {**resources, "nvidia.com/gpu": str(options.gpus)} if options.gpus else resources


def go_architecture(machine: str) -> str:
    """Return the name that Kubernetes uses for a machine type as `uname -m` prints it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def node() -> JsonObject:
    """Return the Node to create."""
    labels = {
        "kubernetes.io/hostname": NODE_NAME,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": go_architecture(platform.machine()),
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME, "labels": labels}}


def node_status(options: ClusterOptions, network: ClusterNetwork, now: str, ready_since: str) -> JsonObject:
    """Return the Node's status."""
    resources = capacity(options)
    healthy = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "the process node does not measure memory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "the process node does not measure disks"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "the process node does not measure processes"),
        ("Ready", "True", "KubeletReady", "the process node runs pods as local processes"),
    ]
    return {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": network.node_address},
            {"type": "Hostname", "address": NODE_NAME},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
        "nodeInfo": {
            "kubeletVersion": f"{KUBERNETES_VERSION}-localcluster",
            "kubeProxyVersion": "",
            "containerRuntimeVersion": "process://1",
            "operatingSystem": "linux",
            "architecture": go_architecture(platform.machine()),
            "osImage": "localcluster",
            "kernelVersion": "",
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
        },
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": ready_since,
            }
            for kind, status, reason, message in healthy
        ],
    }


def lease(now_micro: str) -> JsonObject:
    """Return the Lease by which the node says that it lives; `now_micro` is RFC 3339 with microseconds."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NODE_NAME, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": NODE_NAME, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now_micro},
    }
