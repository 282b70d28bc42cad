"""The HTTP side of the metrics API: routes, and who gets which answer.

Discovery and health are open to everyone: they hold nothing. A value is given to kube-apiserver only, for users
that may read it. Errors are `metav1.Status` documents.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import web

from depth_operator.metrics_api import documents
from depth_operator.metrics_api.authentication import RequestHeaderConfig, UnauthenticatedError, identify
from depth_operator.metrics_api.cluster import ClusterError
from depth_operator.metrics_api.selector import Selector, SelectorError, parse_selector

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from depth_operator.metrics_api.authorization import CachedReviews
    from depth_operator.metrics_api.store import PublishedReplicas

log = logging.getLogger(__name__)


class RequestError(Exception):
    """Becomes a `metav1.Status` with this code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def select(published: dict[str, int], selector: Selector, namespace: str) -> list[tuple[str, int]]:
    """The DepthServices of one namespace that a selector selects.

    Args:
        published: Desired replicas by name.
        selector: On the label `depthservice`.
        namespace: For the messages.

    Raises:
        RequestError: 404 if one that is asked for by name has published nothing, or none is selected. An empty answer
            would be read as zero replicas.
    """
    names = selector.named(documents.SERVICE_LABEL) or frozenset()
    if unpublished := sorted(names - published.keys()):
        raise RequestError(
            404, f"DepthService {namespace}/{unpublished[0]} does not exist or has not published desired replicas yet"
        )
    selected = [item for item in published.items() if selector.matches({documents.SERVICE_LABEL: item[0]})]
    if not selected:
        raise RequestError(
            404,
            f"no DepthService of namespace {namespace} with published replicas is selected;"
            f" select by {documents.SERVICE_LABEL}=<name>",
        )
    return selected


class MetricsApi:
    """The state of the server and its request handlers.

    Args:
        store: What is served.
        reviews: Who may read it.
        is_alive: Whether the watch is running.
    """

    def __init__(self, store: PublishedReplicas, reviews: CachedReviews, is_alive: Callable[[], bool]) -> None:
        self._store = store
        self._reviews = reviews
        self._is_alive = is_alive
        self.front_proxy: RequestHeaderConfig | None = None
        """Whom to believe; None until the ConfigMap has been read."""
        self.context: ssl.SSLContext | None = None
        """The TLS context of new connections."""
        self.trusted_contexts: frozenset[ssl.SSLContext] = frozenset()
        """Those that verify clients against the present front-proxy CA: the one above, and older ones that differ from
        it in the serving certificate only."""
        self.draining = False

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(middlewares=[self._answer])
        group = f"/apis/{documents.GROUP}"
        fixed = {
            "/apis": documents.api_group_list(),
            group: documents.api_group(),
            f"{group}/{documents.VERSION}": documents.api_resource_list(),
        }
        for path, document in fixed.items():
            application.router.add_get(path, _serves(document))
        application.router.add_get(f"{group}/{documents.VERSION}/namespaces/{{namespace}}/{{metric}}", self._value)
        application.router.add_get("/healthz", self._live)
        application.router.add_get("/livez", self._live)
        application.router.add_get("/readyz", self._ready)
        return application

    def not_ready_because(self) -> str | None:
        """What is still missing; None if requests can be answered."""
        if self.draining:
            return "shutting down"
        if self.front_proxy is None:
            return "the front-proxy configuration has not been read"
        if self._store.as_of is None:
            return "the DepthServices have not been listed"
        return None

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response: web.StreamResponse
        try:
            response = await handler(request)
        except RequestError as error:
            response = _status(error.code, str(error))
        except web.HTTPException as error:
            response = _status(error.status, f"{request.method} {request.path}: {error.reason}")
        if _context(request) is not self.context:
            response.force_close()
        return response

    async def _live(self, _: web.Request) -> web.Response:
        if not self._is_alive():
            raise RequestError(500, "the watch of the DepthServices has ended")
        return web.Response(text="ok")

    async def _ready(self, _: web.Request) -> web.Response:
        if reason := self.not_ready_because():
            raise RequestError(503, f"not ready: {reason}")
        return web.Response(text="ok")

    async def _value(self, request: web.Request) -> web.Response:
        namespace, metric = request.match_info["namespace"], request.match_info["metric"]
        await self._authorize(request, namespace)
        if metric != documents.METRIC:
            raise RequestError(404, f"no metric {metric!r}; there is {documents.METRIC}")
        try:
            selector = parse_selector(request.query.get("labelSelector", ""))
        except SelectorError as error:
            raise RequestError(400, f"labelSelector: {error}") from error
        if self._store.as_of is None:
            raise RequestError(503, "the DepthServices have not been listed yet; try again")
        selected = select(self._store.in_namespace(namespace), selector, namespace)
        return web.json_response(documents.metric_values(selected, self._store.as_of))

    async def _authorize(self, request: web.Request, namespace: str) -> None:
        if self.front_proxy is None:
            raise RequestError(503, "the front-proxy configuration has not been read yet; try again")
        transport = request.transport
        if transport is not None and _context(request) not in self.trusted_contexts:
            # A CA that is no longer trusted vouched for this client. Closed without an answer, as an idle connection
            # may be at any time, a client asks again on a new one: RFC 9112, section 9.3.1.
            transport.close()
            raise RequestError(401, "the front-proxy CA has changed; connect again")
        tls: ssl.SSLObject | None = None if transport is None else transport.get_extra_info("ssl_object")
        try:
            user = identify(None if tls is None else tls.getpeercert(), request.headers, self.front_proxy)
        except UnauthenticatedError as error:
            log.warning("refused %s %s from %s: %s", request.method, request.path, request.remote, error)
            raise RequestError(401, f"Unauthorized: {error}") from error
        try:
            allowed = await self._reviews.may_read(user, namespace)
        except ClusterError as error:
            raise RequestError(503, f"kube-apiserver does not say whether {user.name!r} may read: {error}") from error
        if not allowed:
            raise RequestError(
                403,
                f"{documents.METRIC}.{documents.GROUP} is forbidden: user {user.name!r} may not list it"
                f" in namespace {namespace!r}; bind a role that allows it",
            )


def _serves(document: documents.Document) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(document)

    return handler


def _context(request: web.Request) -> ssl.SSLContext | None:
    """The TLS context that a request's connection began with."""
    return None if request.transport is None else request.transport.get_extra_info("sslcontext")


def _status(code: int, message: str) -> web.Response:
    return web.json_response(documents.status_error(code, message), status=code)
