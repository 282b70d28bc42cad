"""Command lines of etcd, kube-apiserver, kube-controller-manager and kube-scheduler."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from localcluster.settings import API_PORT, ETCD_CLIENT_PORT, ETCD_PEER_PORT, ClusterOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from localcluster.network import ClusterNetwork
    from localcluster.state import StateDir

FEATURE_GATES = "HPAConfigurableTolerance=true"
"""Gates of API server and controller manager: the HPA's `tolerance` field (beta in 1.35, harmless where it is on)."""

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
"""Who did what to which object, without bodies."""


def api_server(network: ClusterNetwork) -> str:
    """Return the URL of kube-apiserver."""
    return f"https://{network.node_loopback}:{API_PORT}"


def etcd(state: StateDir, network: ClusterNetwork) -> Sequence[str]:
    """Return etcd's command line; clients and peers need a certificate, as other users share the loopback."""
    host = network.node_loopback
    client, peer = f"https://{host}:{ETCD_CLIENT_PORT}", f"https://{host}:{ETCD_PEER_PORT}"
    pki = state.pki
    return (
        str(state.bin / "etcd"),
        f"--data-dir={state.etcd}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        f"--cert-file={pki}/etcd.crt",
        f"--key-file={pki}/etcd.key",
        f"--trusted-ca-file={pki}/ca.crt",
        "--client-cert-auth",
        f"--peer-cert-file={pki}/etcd.crt",
        f"--peer-key-file={pki}/etcd.key",
        f"--peer-trusted-ca-file={pki}/ca.crt",
        "--peer-client-cert-auth",
        # Durability over a power cut is not worth an fsync per write in a throw-away cluster.
        "--unsafe-no-fsync",
        "--quota-backend-bytes=4294967296",
        "--auto-compaction-retention=1",
    )


def write_audit_policy(path: Path) -> None:
    """Write the audit policy file."""
    path.write_text(json.dumps(AUDIT_POLICY))


def kube_apiserver(state: StateDir, network: ClusterNetwork, options: ClusterOptions) -> Sequence[str]:
    """Return kube-apiserver's command line."""
    host, pki = network.node_loopback, state.pki
    audit = (
        f"--audit-policy-file={state.root}/audit-policy.json",
        f"--audit-log-path={state.logs}/audit.log",
        "--audit-log-maxsize=100",
        "--audit-log-maxbackup=2",
    )
    return (
        str(state.bin / "kube-apiserver"),
        f"--etcd-servers=https://{host}:{ETCD_CLIENT_PORT}",
        f"--etcd-cafile={pki}/ca.crt",
        f"--etcd-certfile={pki}/apiserver-etcd-client.crt",
        f"--etcd-keyfile={pki}/apiserver-etcd-client.key",
        f"--bind-address={host}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--service-cluster-ip-range={network.services}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        # The API server's address is a loopback address, which Endpoints refuse; the service proxy knows it instead.
        "--endpoint-reconciler-type=none",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        f"--feature-gates={FEATURE_GATES}",
        f"--egress-selector-config-file={state.egress_file}",
        *(audit if options.audit else ()),
    )


def kube_controller_manager(state: StateDir, network: ClusterNetwork, options: ClusterOptions) -> Sequence[str]:
    """Return kube-controller-manager's command line: every loop as on a real cluster, the HPA's quicker."""
    return (
        str(state.bin / "kube-controller-manager"),
        f"--kubeconfig={state.root}/controller-manager.kubeconfig",
        "--leader-elect=false",
        f"--root-ca-file={state.pki}/ca.crt",
        f"--service-account-private-key-file={state.pki}/sa.key",
        f"--cluster-signing-cert-file={state.pki}/ca.crt",
        f"--cluster-signing-key-file={state.pki}/ca.key",
        "--use-service-account-credentials",
        "--horizontal-pod-autoscaler-sync-period=1s",
        f"--horizontal-pod-autoscaler-downscale-stabilization={options.downscale_stabilization_seconds}s",
        "--concurrent-horizontal-pod-autoscaler-syncs=5",
        f"--service-cluster-ip-range={network.services}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        f"--bind-address={network.node_loopback}",
        "--secure-port=0",
        f"--feature-gates={FEATURE_GATES}",
    )


def kube_scheduler(state: StateDir, network: ClusterNetwork) -> Sequence[str]:
    """Return kube-scheduler's command line."""
    return (
        str(state.bin / "kube-scheduler"),
        f"--kubeconfig={state.root}/scheduler.kubeconfig",
        "--leader-elect=false",
        f"--bind-address={network.node_loopback}",
        "--secure-port=0",
    )
