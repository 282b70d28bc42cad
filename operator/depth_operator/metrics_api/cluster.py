"""What the metrics API asks of kube-apiserver, by the `kubernetes` client in threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import urllib3
from kubernetes import client, config, watch

from depth_operator.metrics_api.documents import GROUP, METRIC, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from depth_operator.metrics_api.authentication import User

DEPTH_SERVICE_GROUP = "depthserving.dev"
DEPTH_SERVICE_VERSION = "v1alpha1"
DEPTH_SERVICE_PLURAL = "depthservices"

AUTHENTICATION_NAMESPACE = "kube-system"
AUTHENTICATION_CONFIG_MAP = "extension-apiserver-authentication"

READ_VERB = "list"
"""The verb that kube-apiserver sees in a GET without an object's name, and that RBAC must grant for it."""

MAX_CONCURRENT_REQUESTS = 8
"""Threads for questions to kube-apiserver; the watch has its own."""

LIST_PAGE_SIZE = 500
"""Objects in one answer of a list."""

_WATCH_GRACE_SECONDS = 10.0
"""How much longer than the watch was asked to last its connection may be silent."""

T = TypeVar("T")


class ClusterError(Exception):
    """kube-apiserver did not do what it was asked; the message says what and why."""


class DepthServiceSource(Protocol):
    """Where the DepthServices come from. Both methods block and are called in a thread."""

    def list_services(self) -> tuple[list[Mapping[str, Any]], str]:
        """All DepthServices and the resource version of the list.

        Raises:
            ClusterError: If they cannot be had.
        """

    def watch_services(self, resource_version: str, seconds: float) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Events since a version: `ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK` and the object, for some seconds.

        Raises:
            ClusterError: If the connection breaks or the version is too old.
        """


class Cluster(DepthServiceSource, Protocol):
    """All that the metrics API asks of kube-apiserver."""

    async def may_read(self, user: User, namespace: str) -> bool:
        """Whether the user may read the metric of the namespace; raises ClusterError."""

    async def front_proxy_config(self) -> Mapping[str, str]:
        """Data of the ConfigMap that describes front-proxy requests; raises ClusterError."""


def connect(environment: Mapping[str, str]) -> client.ApiClient:
    """A client for the cluster of `KUBECONFIG` if it is set, else for that of the pod's service account.

    Raises:
        ClusterError: If neither is there.
    """
    configuration = client.Configuration()
    try:
        if path := environment.get("KUBECONFIG"):
            config.load_kube_config(config_file=path, client_configuration=configuration)  # type: ignore[no-untyped-call]  # no annotations
        else:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # no annotations
    except (config.ConfigException, OSError) as error:
        raise ClusterError(f"no access to a cluster: {error}; set KUBECONFIG or run in a pod") from error
    configuration.retries = False
    return client.ApiClient(configuration)


class KubernetesCluster:
    """`Cluster` on a real kube-apiserver.

    Args:
        api_client: The connection.
        namespace: The only namespace whose DepthServices are served; None for all.
        timeout_seconds: Limit of every request but the watch.
    """

    def __init__(self, api_client: client.ApiClient, *, namespace: str | None, timeout_seconds: float) -> None:
        self._namespace = namespace
        self._timeout_seconds = timeout_seconds
        self._core = client.CoreV1Api(api_client)
        self._authorization = client.AuthorizationV1Api(api_client)
        self._objects = client.CustomObjectsApi(api_client)
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS, thread_name_prefix="kubernetes")

    def close(self) -> None:
        """Wait for no one: requests in flight end by their own time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def may_read(self, user: User, namespace: str) -> bool:
        """Create a SubjectAccessReview; raises ClusterError."""
        review = client.V1SubjectAccessReview(
            spec=client.V1SubjectAccessReviewSpec(
                user=user.name,
                groups=list(user.groups),
                uid=user.uid or None,
                extra={key: list(values) for key, values in user.extra},
                resource_attributes=client.V1ResourceAttributes(
                    namespace=namespace, verb=READ_VERB, group=GROUP, version=VERSION, resource=METRIC
                ),
            )
        )
        answer = await self._in_thread(
            "create a SubjectAccessReview",
            lambda: self._authorization.create_subject_access_review(review, _request_timeout=self._timeout_seconds),
        )
        return answer.status is not None and bool(answer.status.allowed)

    async def front_proxy_config(self) -> Mapping[str, str]:
        """Read ConfigMap kube-system/extension-apiserver-authentication; raises ClusterError."""
        name = f"ConfigMap {AUTHENTICATION_NAMESPACE}/{AUTHENTICATION_CONFIG_MAP}"
        config_map = await self._in_thread(
            f"read {name}",
            lambda: self._core.read_namespaced_config_map(
                AUTHENTICATION_CONFIG_MAP, AUTHENTICATION_NAMESPACE, _request_timeout=self._timeout_seconds
            ),
        )
        data: Mapping[str, str] = config_map.data or {}
        return data

    def list_services(self) -> tuple[list[Mapping[str, Any]], str]:
        """List DepthServices page by page; raises ClusterError."""
        items: list[Mapping[str, Any]] = []
        token = ""
        with _as_cluster_error("list DepthServices"):
            while True:
                page = self._list(limit=LIST_PAGE_SIZE, _continue=token, _request_timeout=self._timeout_seconds)
                items += page["items"]
                token = page["metadata"].get("continue", "")
                if not token:
                    return items, page["metadata"]["resourceVersion"]

    def watch_services(self, resource_version: str, seconds: float) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Watch DepthServices for some seconds; raises ClusterError."""
        with _as_cluster_error("watch DepthServices"):
            events = watch.Watch().stream  # type: ignore[no-untyped-call]  # no annotations
            for event in events(  # type: ignore[no-untyped-call]
                self._list,
                resource_version=resource_version,
                timeout_seconds=int(seconds),
                allow_watch_bookmarks=True,
                _request_timeout=(self._timeout_seconds, seconds + _WATCH_GRACE_SECONDS),
            ):
                yield event["type"], event["raw_object"]

    def _list(self, **options: Any) -> Any:  # noqa: ANN401 - a page, or the raw response if `watch` is among the options
        if self._namespace is None:
            return self._objects.list_cluster_custom_object(
                DEPTH_SERVICE_GROUP, DEPTH_SERVICE_VERSION, DEPTH_SERVICE_PLURAL, **options
            )
        return self._objects.list_namespaced_custom_object(
            DEPTH_SERVICE_GROUP, DEPTH_SERVICE_VERSION, self._namespace, DEPTH_SERVICE_PLURAL, **options
        )

    async def _in_thread(self, what: str, call: Callable[[], T]) -> T:
        def guarded() -> T:
            with _as_cluster_error(what):
                return call()

        return await asyncio.get_running_loop().run_in_executor(self._threads, guarded)


@contextlib.contextmanager
def _as_cluster_error(what: str) -> Iterator[None]:
    try:
        yield
    except client.ApiException as error:
        raise ClusterError(f"cannot {what}: {error.status} {error.reason}") from error
    except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"cannot {what}: {type(error).__name__}: {error}") from error


def connect_to_current(*, namespace: str | None, timeout_seconds: float) -> KubernetesCluster:
    """The cluster that the process's environment names; raises ClusterError."""
    return KubernetesCluster(connect(os.environ), namespace=namespace, timeout_seconds=timeout_seconds)
