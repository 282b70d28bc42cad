"""Prometheus of the local cluster finds the server's and the operator's pods by their labels and ports."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from localcluster.testing_objects import pod, python_container

if TYPE_CHECKING:
    from localcluster.testing import ClusterHandle

pytestmark = pytest.mark.cluster

EXPORTER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b"answer 42\\n")
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer((sys.argv[1], 8000), Handler).serve_forever()
"""


def exporter(name: str, port_name: str, labels: dict[str, str]) -> dict[str, Any]:
    container = python_container("main", EXPORTER, ports=[{"name": port_name, "containerPort": 8000}])
    container["args"].append("0.0.0.0")  # noqa: S104 - the node rewrites it to the pod's address
    return pod(name, container, labels=labels)


def query(cluster: ClusterHandle, expression: str) -> list[dict[str, Any]]:
    url = (
        f"{cluster.url('monitoring', 'prometheus', 9090)}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    )
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - the http URL of an own Service
        result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result


def test_pods_are_scraped_with_the_labels_of_the_contract(cluster: ClusterHandle, namespace: str) -> None:
    server = {"app.kubernetes.io/name": "depth-server", "app.kubernetes.io/instance": "street"}
    cluster.apply(
        exporter("server-0", "http", server),
        exporter("operator-0", "metrics", {"app.kubernetes.io/name": "depth-operator"}),
        exporter("other-0", "http", {"app.kubernetes.io/name": "other"}),
        namespace=namespace,
    )
    expression = f'answer{{namespace="{namespace}"}}'
    cluster.wait_for(
        "two scraped pods", lambda: len(query(cluster, expression)) == 2, timeout=120, namespace="monitoring"
    )
    found = {item["metric"]["pod"]: item for item in query(cluster, expression)}
    assert set(found) == {"server-0", "operator-0"}
    assert found["server-0"]["metric"]["service"] == "street"
    assert found["server-0"]["value"][1] == "42"
    assert found["server-0"]["metric"]["instance"].startswith("127.")
