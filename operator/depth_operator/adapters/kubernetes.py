"""The Kubernetes API by the official client's transport, off the event loop, with a time limit on every request.

Requests and answers are plain JSON: the generated classes are not used, because server-side apply has to send exactly
the fields that are rendered.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import kubernetes.client
import kubernetes.config
import urllib3.exceptions

from depth_operator.api.naming import (
    API_VERSION,
    FIELD_MANAGER,
    GROUP,
    KIND,
    PLURAL,
    VERSION,
    Key,
    label_selector,
    selector_labels,
)
from depth_operator.errors import ApiError, NotFoundError, NotLeadingError, api_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from depth_operator.manifests import Manifest
    from depth_operator.ports import WallClock

COLLECTIONS: Final[dict[str, tuple[str, str]]] = {
    KIND: (f"/apis/{GROUP}/{VERSION}", PLURAL),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Service": ("/api/v1", "services"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "Pod": ("/api/v1", "pods"),
    "Event": ("/api/v1", "events"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
}
"""API path and plural of every kind that the operator uses. The permissions in the chart follow from this."""

PAGE_SIZE: Final = 500
"""Objects of one page of a list."""
MAX_EVENT_MESSAGE_LENGTH: Final = 1024
"""Characters of an Event's message; the API server refuses longer ones."""

_APPLY_PATCH: Final = "application/apply-patch+yaml"
_JSON: Final = "application/json"
_SHOWN_BYTES: Final = 200
"""How much of an answer that is no object of the API is repeated in a message."""


def load_configuration(kubeconfig: str | None) -> kubernetes.client.Configuration:
    """How to reach the API server: the given kubeconfig file, else the service account of the pod.

    Raises:
        kubernetes.config.ConfigException: neither can be used.
    """
    configuration = kubernetes.client.Configuration()
    if kubeconfig:
        kubernetes.config.load_kube_config(  # type: ignore[no-untyped-call] # the client is partly typed
            config_file=kubeconfig, client_configuration=configuration
        )
    else:
        kubernetes.config.load_incluster_config(  # type: ignore[no-untyped-call] # the client is partly typed
            client_configuration=configuration
        )
    configuration.retries = False
    return configuration


class KubernetesApi:
    """JSON over HTTP with the client's authentication, in a bounded pool of threads."""

    def __init__(
        self, load: Callable[[], kubernetes.client.Configuration], *, timeout_seconds: float, concurrency: int
    ) -> None:
        """Connect lazily.

        Args:
            load: How to reach the API server; called again when the credentials are refused.
            timeout_seconds: Time limit of one request.
            concurrency: Requests at the same time; further ones wait.
        """
        self._load = load
        configuration = load()
        configuration.connection_pool_maxsize = concurrency
        self._client = kubernetes.client.ApiClient(configuration)
        self._timeout_seconds = timeout_seconds
        self.trouble: str | None = "no request has been answered yet"
        """Why the API server cannot be worked with, None if it answered the last request; read from any thread."""
        self._threads = ThreadPoolExecutor(max_workers=concurrency, thread_name_prefix="kubernetes-api")

    async def request(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: object = None,
        content_type: str = _JSON,
        fence: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Send one request.

        Args:
            operation: What it is, for errors.
            method: HTTP method.
            path: Path below the server's address.
            query: Query parameters.
            body: Sent as JSON.
            content_type: Of the body; JSON is valid YAML, which server-side apply is named after.
            fence: Asked in the sending thread just before the request leaves; False stops it.

        Raises:
            ApiError: the API server refused or did not answer in time.
            NotLeadingError: the fence stopped it.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, self._send, operation, method, path, query, body, content_type, fence
        )

    def close(self) -> None:
        """Let running requests end and free the threads and connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._client.rest_client.close()

    def _send(
        self,
        operation: str,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: object,
        content_type: str,
        fence: Callable[[], bool] | None,
    ) -> dict[str, Any]:
        headers = {"Accept": _JSON, "Content-Type": content_type, **self._client.default_headers}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], None, None, None)
        url = f"{self._client.configuration.host}{path}{'?' + urlencode(query) if query else ''}"
        if fence is not None and not fence():
            raise NotLeadingError(f"{operation}: this process does not hold the Lease")
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(total=self._timeout_seconds),
                retries=False,
            )
        except urllib3.exceptions.HTTPError as error:
            self.trouble = f"{operation}: no answer"
            raise api_error(operation, 0, "Unreachable", f"{self._client.configuration.host}: {error}") from error
        failed = response.status == 401 or response.status >= 500
        self.trouble = f"{operation}: {response.status}" if failed else None
        if response.status == 401:
            self._client.configuration.api_key = self._load().api_key
        if response.status >= 400:
            raise _error_of(operation, response)
        return _object_of(operation, response)


def _object_of(operation: str, response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    """The object in an answer; a proxy on the way may answer 200 with a page of its own."""
    try:
        parsed = json.loads(response.data)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        shown = response.data[:_SHOWN_BYTES].decode(errors="replace")
        message = f"answered {response.status} with something that is not a JSON object: {shown!r}"
        raise api_error(operation, 0, "InvalidAnswer", message)
    return parsed


def _error_of(operation: str, response: urllib3.BaseHTTPResponse) -> ApiError:
    """The error that an answer stands for; the body is a metav1.Status unless a proxy on the way made it."""
    try:
        status = json.loads(response.data)
    except ValueError:
        status = {}
    if not isinstance(status, dict):
        status = {}
    retry_after = response.headers.get("Retry-After", "")
    causes = (status.get("details") or {}).get("causes") or []
    # An apply that names the uid of a predecessor is refused as an attempt to change it, not as a conflict.
    replaced = response.status == 422 and any(cause.get("field") == "metadata.uid" for cause in causes)
    return api_error(
        operation,
        409 if replaced else response.status,
        str(status.get("reason") or ""),
        str(status.get("message") or response.data[:_SHOWN_BYTES].decode(errors="replace")),
        float(retry_after) if retry_after.isdigit() else None,
    )


def _path(kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    prefix, plural = COLLECTIONS[kind]
    parts = [prefix, *(["namespaces", quote(namespace)] if namespace else []), plural]
    parts += [quote(part) for part in (name, subresource) if part]
    return "/".join(parts)


class KubernetesCluster:
    """`depth_operator.ports.Cluster` on a real API server. Every write passes the fence of the leader election."""

    def __init__(
        self,
        api: KubernetesApi,
        *,
        watch_namespace: str | None,
        identity: str,
        is_leading: Callable[[], bool],
        wall: WallClock,
    ) -> None:
        self._api = api
        self._watch_namespace = watch_namespace
        self._identity = identity
        self._is_leading = is_leading
        self._wall = wall

    async def list_depth_services(self) -> list[Key]:
        """Every DepthService that this operator serves."""
        items = await self._list(KIND, self._watch_namespace, {})
        return [Key(item["metadata"]["namespace"], item["metadata"]["name"]) for item in items]

    async def get_depth_service(self, key: Key) -> Manifest | None:
        """One DepthService, None if there is none."""
        return await self._get(KIND, key)

    async def get_child(self, kind: str, key: Key) -> Manifest | None:
        """One child by its kind, None if there is none."""
        return await self._get(kind, key)

    async def list_pods(self, key: Key) -> list[Manifest]:
        """The pods of one DepthService."""
        return await self._list("Pod", key.namespace, {"labelSelector": label_selector(selector_labels(key.name))})

    async def apply(self, manifest: Manifest, field_manager: str) -> Manifest:
        """Apply on the server's side, with force."""
        metadata = manifest["metadata"]
        return await self._apply(
            manifest, field_manager, _path(manifest["kind"], metadata["namespace"], metadata["name"]), "apply"
        )

    async def delete(self, manifest: Manifest) -> None:
        """Delete exactly this object; its dependents follow in the background."""
        kind, metadata = manifest["kind"], manifest["metadata"]
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": metadata["uid"]},
        }
        path = _path(kind, metadata["namespace"], metadata["name"])
        operation = f"delete {kind} {metadata['namespace']}/{metadata['name']}"
        try:
            await self._api.request(operation, "DELETE", path, body=options, fence=self._is_leading)
        except NotFoundError:
            return

    async def apply_status(self, service: Manifest, status: Manifest) -> None:
        """Make ``status`` the whole status of the given DepthService, if it did not change since it was read.

        The resource version is what protects a successor of the same name: the status subresource ignores the uid.
        """
        metadata = service["metadata"]
        manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {key: metadata[key] for key in ("name", "namespace", "resourceVersion")},
            "status": status,
        }
        path = _path(KIND, metadata["namespace"], metadata["name"], "status")
        await self._apply(manifest, FIELD_MANAGER, path, "apply status of")

    async def create_event(self, service: Manifest, *, event_type: str, reason: str, action: str, message: str) -> None:
        """Record an Event about a DepthService."""
        metadata, now = service["metadata"], self._wall()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": metadata["namespace"], "name": f"{metadata['name']}.{secrets.token_hex(8)}"},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
            },
            "type": event_type,
            "reason": reason,
            "action": action,
            "message": message[:MAX_EVENT_MESSAGE_LENGTH],
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._identity,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        operation = f"create Event about {metadata['namespace']}/{metadata['name']}"
        path = _path("Event", metadata["namespace"])
        await self._api.request(operation, "POST", path, body=event, fence=self._is_leading)

    async def is_kind_served(self) -> bool:
        """Whether the API server knows DepthServices, that is, whether the CustomResourceDefinition is established."""
        try:
            await self._api.request(f"discover {API_VERSION}", "GET", COLLECTIONS[KIND][0])
        except NotFoundError:
            return False
        return True

    async def _get(self, kind: str, key: Key) -> Manifest | None:
        try:
            return await self._api.request(f"get {kind} {key}", "GET", _path(kind, key.namespace, key.name))
        except NotFoundError:
            return None

    async def _list(self, kind: str, namespace: str | None, query: dict[str, str]) -> list[Manifest]:
        items: list[Manifest] = []
        page = {**query, "limit": str(PAGE_SIZE)}
        while True:
            answer = await self._api.request(f"list {kind}", "GET", _path(kind, namespace), query=page)
            items += answer["items"]
            token = answer["metadata"].get("continue")
            if not token:
                return items
            page["continue"] = token

    async def _apply(self, manifest: Manifest, field_manager: str, path: str, verb: str) -> Manifest:
        metadata = manifest["metadata"]
        return await self._api.request(
            f"{verb} {manifest['kind']} {metadata['namespace']}/{metadata['name']}",
            "PATCH",
            path,
            query={"fieldManager": field_manager, "force": "true"},
            body=manifest,
            content_type=_APPLY_PATCH,
            fence=self._is_leading,
        )


class KubernetesLeases:
    """`depth_operator.leader.Leases` on a real API server."""

    def __init__(self, api: KubernetesApi, *, name: str, namespace: str) -> None:
        self._api = api
        self._name = name
        self._namespace = namespace

    async def get_lease(self) -> Manifest | None:
        """The Lease, None if there is none."""
        operation = f"get Lease {self._namespace}/{self._name}"
        try:
            return await self._api.request(operation, "GET", _path("Lease", self._namespace, self._name))
        except NotFoundError:
            return None

    async def put_lease(self, lease: Manifest) -> Manifest:
        """Create the Lease, or update it if it carries a resource version."""
        operation = f"write Lease {self._namespace}/{self._name}"
        query = {"fieldManager": FIELD_MANAGER}
        if "resourceVersion" in lease["metadata"]:
            path = _path("Lease", self._namespace, self._name)
            return await self._api.request(operation, "PUT", path, query=query, body=lease)
        return await self._api.request(operation, "POST", _path("Lease", self._namespace), query=query, body=lease)
