"""A plain client for tests: JSON over HTTPS with the administrator's certificate, and waiting with an explanation."""

from __future__ import annotations

import base64
import ssl
import tempfile
import time
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Object = dict[str, Any]

COLLECTIONS = {
    "namespaces": "/api/v1",
    "pods": "/api/v1",
    "services": "/api/v1",
    "events": "/api/v1",
    "serviceaccounts": "/api/v1",
    "deployments": "/apis/apps/v1",
    "replicasets": "/apis/apps/v1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
    "leases": "/apis/coordination.k8s.io/v1",
    "depthservices": "/apis/depthserving.dev/v1alpha1",
    "customresourcedefinitions": "/apis/apiextensions.k8s.io/v1",
}

T = TypeVar("T")

PENDING_POLL_SECONDS = 0.05
"""Time between two looks while a test waits."""


class RefusedError(Exception):
    """The API server refused a request; `fields` are the paths of ``Status.details.causes``."""

    def __init__(self, status: int, body: Object) -> None:
        super().__init__(body.get("message", ""))
        self.status = status
        self.causes: list[Object] = (body.get("details") or {}).get("causes") or []

    @property
    def fields(self) -> set[str]:
        return {cause.get("field", "") for cause in self.causes}


class KubernetesClient:
    """What a test needs of the API."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=decode(cluster["certificate-authority-data"]))
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
            pair.write(decode(user["client-certificate-data"]) + decode(user["client-key-data"]))
            pair.flush()
            context.load_cert_chain(pair.name)
        self.server: str = cluster["server"]
        self._http = httpx.Client(base_url=self.server, verify=context, timeout=30, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def request(
        self, method: str, path: str, *, body: Any = None, content_type: str = "application/json", **query: str
    ) -> Object:
        answer = self._http.request(method, path, json=body, headers={"Content-Type": content_type}, params=query)
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        result: Object = answer.json() if is_json else {"message": answer.text}
        if answer.status_code >= 400:
            raise RefusedError(answer.status_code, result)
        return result

    def create(self, plural: str, body: Object, namespace: str = "", **query: str) -> Object:
        return self.request("POST", collection(plural, namespace), body=body, **query)

    def get(self, plural: str, namespace: str, name: str) -> Object | None:
        try:
            return self.request("GET", f"{collection(plural, namespace)}/{name}")
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def list(self, plural: str, namespace: str, **query: str) -> list[Object]:
        items: list[Object] = self.request("GET", collection(plural, namespace), **query)["items"]
        return items

    def merge(
        self, plural: str, namespace: str, name: str, body: Object, subresource: str = "", **query: str
    ) -> Object:
        path = f"{collection(plural, namespace)}/{name}" + (f"/{subresource}" if subresource else "")
        return self.request("PATCH", path, body=body, content_type="application/merge-patch+json", **query)

    def apply(self, plural: str, body: Object, *, field_manager: str) -> Object:
        path = f"{collection(plural, body['metadata'].get('namespace', ''))}/{body['metadata']['name']}"
        query = {"fieldManager": field_manager, "force": "true"}
        return self.request("PATCH", path, body=body, content_type="application/apply-patch+yaml", **query)

    def delete(self, plural: str, namespace: str, name: str) -> None:
        self.request("DELETE", f"{collection(plural, namespace)}/{name}")


def collection(plural: str, namespace: str) -> str:
    return f"{COLLECTIONS[plural]}{f'/namespaces/{namespace}' if namespace else ''}/{plural}"


def decode(data: str) -> str:
    return base64.b64decode(data).decode()


def wait_until(look: Callable[[], T], *, what: str, seconds: float = 30.0, explain: Callable[[], str] = str) -> T:
    """Look again and again until what is seen is truthy; fail with an explanation if it does not become so in time."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s\n{explain()}")
        time.sleep(PENDING_POLL_SECONDS)
