"""The operator as a process of its own, with the identity and the permissions that its documentation grants."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.apiserver.kubernetes_client import wait_until

if TYPE_CHECKING:
    from tests.apiserver.kubernetes_client import KubernetesClient

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/reference/operator-settings.md"
ROW = re.compile(
    r"^\| (?P<scope>[DL]) \| `?(?P<group>[^`|]+?)`? \| `(?P<resource>[^`]+)` \| (?P<verbs>[^|]+) \|$", re.MULTILINE
)

ACCOUNT = "depth-operator"


def documented_rules() -> list[dict[str, Any]]:
    """The permissions of ``docs/reference/operator-settings.md`` as RBAC rules."""
    rules = [
        {
            "apiGroups": ["" if row["group"] == "core" else row["group"]],
            "resources": [row["resource"]],
            "verbs": row["verbs"].strip().split(", "),
        }
        for row in ROW.finditer(DOCUMENT.read_text())
    ]
    assert len(rules) >= 8, "the table of permissions is not where it was"
    return rules


def grant(client: KubernetesClient, namespace: str) -> str:
    """Create the operator's service account with exactly the documented permissions and return a token."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}
    client.create("serviceaccounts", account, namespace)
    group = "/apis/rbac.authorization.k8s.io/v1"
    role = {"kind": "Role", "metadata": {"name": ACCOUNT}, "rules": documented_rules()}
    client.request("POST", f"{group}/namespaces/{namespace}/roles", body=role)
    binding = {
        "kind": "RoleBinding",
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
    }
    client.request("POST", f"{group}/namespaces/{namespace}/rolebindings", body=binding)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{ACCOUNT}/token"
    token: str = client.request("POST", path, body=request)["status"]["token"]
    return token


def write_kubeconfig(path: Path, *, server: str, authority: str, token: str) -> Path:
    """A kubeconfig for a server whose certificate the given authority (PEM) signed."""
    authority_data = base64.b64encode(authority.encode()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority-data": authority_data}}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }
    path.write_text(json.dumps(config))
    return path


class OperatorProcess:
    """``python -m depth_operator run``, started and ended as often as a test wants."""

    def __init__(
        self, folder: Path, kubeconfig: Path, namespace: str, name: str = "operator-0", **settings: str
    ) -> None:
        self._log = folder / f"{name}.log"
        self.health_port, self.metrics_port = free_port(), free_port()
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DEPTH_OPERATOR_")},
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": str(ROOT / "operator"),
            "PYTHONSAFEPATH": "1",
            "DEPTH_OPERATOR_NAMESPACE": namespace,
            "DEPTH_OPERATOR_WATCH_NAMESPACE": namespace,
            "DEPTH_OPERATOR_IDENTITY": name,
            "DEPTH_OPERATOR_HEALTH_PORT": str(self.health_port),
            "DEPTH_OPERATOR_METRICS_PORT": str(self.metrics_port),
            "DEPTH_OPERATOR_SERVER_IMAGE": "image:1",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "depth_operator", "run"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def terminate(self) -> int:
        """End it as Kubernetes does, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def wait(self, seconds: float) -> int:
        """Wait for it to end by itself and return its exit code."""
        assert self._process is not None
        return self._process.wait(seconds)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def get(self, path: str, port: int | None = None) -> str:
        """Read one of its endpoints."""
        with urllib.request.urlopen(f"http://127.0.0.1:{port or self.health_port}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def wait_leading(self) -> None:
        wait_until(lambda: '"message": "leading"' in self.log(), what="the operator leading", explain=self.log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
