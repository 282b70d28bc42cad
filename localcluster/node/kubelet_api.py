"""The node's HTTPS endpoint: container logs for `kubectl logs`. Only kube-apiserver's certificate is let in."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from os import SEEK_END, fstat
from typing import TYPE_CHECKING, Self

from aiohttp import web

from localcluster.node.container import Container

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 0.2
"""Interval in which a followed log is looked at."""

CHUNK_BYTES = 65536
"""Bytes that are read from a log at once."""

API_SERVER_NAME = "kube-apiserver-kubelet-client"
"""Common name of the certificate by which kube-apiserver shows itself."""

FindContainer = Callable[[str, str, str], Container | None]
"""Namespace, pod and container name → the container, or None."""


class LogReader:
    """Reads a log that may grow, be cut, or be deleted meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._left: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def at_limit(self) -> bool:
        """Whether as many bytes were read as were asked for."""
        return self._left == 0

    def begin(self, lines: int | None, limit: int | None) -> None:
        """Go to the last `lines` lines and read no more than `limit` bytes; None means all."""
        self._left = limit
        if lines is None:
            return
        starts: deque[int] = deque([self._file.seek(0, SEEK_END)] if lines == 0 else [], maxlen=max(1, lines))
        if lines > 0:
            self._file.seek(0)
            position = 0
            for line in self._file:
                starts.append(position)
                position += len(line)
        self._file.seek(starts[0] if starts else 0)

    def read(self) -> bytes:
        """Return the next bytes, or nothing if there are none now."""
        if fstat(self._file.fileno()).st_size < self._file.tell():
            # The log was cut to its later half: go on with that.
            self._file.seek(0)
        data = self._file.read(CHUNK_BYTES if self._left is None else min(CHUNK_BYTES, self._left))
        if self._left is not None:
            self._left -= len(data)
        return data


def tls_context(pki: Path) -> ssl.SSLContext:
    """Return a server context that demands a certificate of the cluster CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "node.crt", pki / "node.key")
    context.load_verify_locations(pki / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@web.middleware
async def _only_api_server(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    tls = request.transport.get_extra_info("ssl_object") if request.transport else None
    certificate = tls.getpeercert() if tls else None
    subject = dict(pair for group in (certificate or {}).get("subject", ()) for pair in group)
    if subject.get("commonName") != API_SERVER_NAME:
        raise web.HTTPForbidden(text="only kube-apiserver may ask this node\n")
    return await handler(request)


class KubeletApi:
    """Serves `containerLogs`; what else a kubelet offers is answered with 501."""

    def __init__(self, find: FindContainer) -> None:
        self._find = find

    def application(self) -> web.Application:
        """Return the web application."""
        application = web.Application(middlewares=[_only_api_server])
        application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_route("*", "/{rest:.*}", self._not_offered)
        return application

    async def _healthz(self, request: web.Request) -> web.Response:
        del request
        return web.Response(text="ok")

    async def _not_offered(self, request: web.Request) -> web.Response:
        text = (
            f"{request.path}: the process node offers logs only, no exec, attach, port-forward or stats; "
            "its containers are processes of this machine: see `python -m localcluster status` and the pod's address\n"
        )
        return web.Response(status=501, text=text)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        info, query = request.match_info, request.query
        container = self._find(info["namespace"], info["pod"], info["container"])
        if container is None:
            raise web.HTTPNotFound(text=f"container {info['container']} of pod {info['pod']} is not on this node\n")
        for option in ("timestamps", "sinceSeconds", "sinceTime"):
            if query.get(option) not in (None, "", "false"):
                raise web.HTTPBadRequest(text=f"{option}: the process node keeps no times of log lines\n")
        previous = query.get("previous") == "true"
        try:
            reader = LogReader(container.previous_log_file if previous else container.log_file)
        except FileNotFoundError as error:
            which = "previous instance" if previous else "log"
            text = f"container {info['container']} of pod {info['pod']} has no {which}\n"
            raise web.HTTPBadRequest(text=text) from error
        follow = query.get("follow") == "true" and not previous
        with reader:
            reader.begin(_count(query, "tailLines"), _count(query, "limitBytes"))
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            # Asked before reading, so that the last lines of an instance that ends are not lost.
            while True:
                goes_on = follow and container.writes_to(reader.path)
                while data := reader.read():
                    await response.write(data)
                if not goes_on or reader.at_limit:
                    break
                await asyncio.sleep(FOLLOW_SECONDS)
            await response.write_eof()
        return response


def _count(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise web.HTTPBadRequest(text=f"{name}={text}: expected a number\n")
    return int(text)
