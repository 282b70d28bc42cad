"""A small asynchronous client of the Kubernetes API: get, list, watch, create, apply, patch, delete."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Self

import aiohttp

from localcluster.settings import REQUEST_SECONDS, WATCH_SECONDS, JsonObject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path
    from types import TracebackType

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
"""Patch types of the Kubernetes API (https://kubernetes.io/docs/reference/using-api/api-concepts/)."""


class ApiError(Exception):
    """The API server refused a request.

    Attributes:
        status: HTTP status code.
        reason: Machine-readable reason, such as `NotFound` or `Conflict`.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def api_path(api_version: str, plural: str, namespace: str | None = None, name: str | None = None) -> str:
    """Return the path of a resource, a collection if `name` is None."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{plural}" + (f"/{name}" if name else "")


def core(plural: str, namespace: str | None = None, name: str | None = None) -> str:
    """Return the path of a resource of the core group."""
    return api_path("v1", plural, namespace, name)


def _error(status: int, method: str, path: str, body: bytes) -> ApiError:
    try:
        decoded = json.loads(body)
    except ValueError:
        decoded = {}
    reason = str(decoded.get("reason", "")) if isinstance(decoded, dict) else ""
    message = decoded.get("message") if isinstance(decoded, dict) else None
    text = message or body[:500].decode(errors="replace")
    return ApiError(status, reason, f"{method} {path}: {status} {reason}: {text}")


def certificate_context(pki: Path, file: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the cluster and shows the client certificate `file`."""
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / f"{file}.crt", pki / f"{file}.key")
    return context


class ApiClient:
    """Talks to one API server; an asynchronous context manager that owns its connections."""

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        self._server = server
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
        self._session = aiohttp.ClientSession(self._server, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            msg = "the client is used outside of its `async with` block"
            raise RuntimeError(msg)
        return self._session

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: JsonObject | None = None,
        content_type: str = "application/json",
        timeout: float = REQUEST_SECONDS,  # noqa: ASYNC109 - handed to aiohttp, which bounds connecting and reading
    ) -> JsonObject:
        """Send one request and return the decoded answer.

        Raises:
            ApiError: If the server answers with an error.
            aiohttp.ClientError: If the server cannot be reached.
        """
        data = None if body is None else json.dumps(body).encode()
        async with self._open.request(
            method,
            path,
            params=params,
            data=data,
            headers={"Content-Type": content_type, "Accept": "application/json"},
            timeout=aiohttp.ClientTimeout(total=timeout),
        ) as response:
            raw = await response.read()
            if response.status >= 400:
                raise _error(response.status, method, path, raw)
            decoded = json.loads(raw) if raw.lstrip().startswith(b"{") else {"text": raw.decode(errors="replace")}
            result: JsonObject = decoded
            return result

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> JsonObject:
        """Return one object or one list."""
        return await self.request("GET", path, params=params)

    async def create(self, path: str, body: JsonObject) -> JsonObject:
        """Create an object in the collection `path`."""
        return await self.request("POST", path, body=body)

    async def replace(self, path: str, body: JsonObject) -> JsonObject:
        """Replace an object."""
        return await self.request("PUT", path, body=body)

    async def patch(self, path: str, body: JsonObject, content_type: str = MERGE_PATCH) -> JsonObject:
        """Patch an object."""
        return await self.request("PATCH", path, body=body, content_type=content_type)

    async def apply(self, path: str, body: JsonObject) -> JsonObject:
        """Apply an object server-side; fields of others are taken over."""
        params = {"fieldManager": "localcluster", "force": "true"}
        return await self.request("PATCH", path, params=params, body=body, content_type=APPLY_PATCH)

    async def delete(self, path: str, options: JsonObject | None = None) -> JsonObject:
        """Delete an object."""
        return await self.request("DELETE", path, body=options or {})

    async def watch(self, path: str, params: Mapping[str, str]) -> AsyncIterator[JsonObject]:
        """Yield watch events until the server ends the watch.

        Raises:
            ApiError: If the watch is refused; an error inside the stream comes as an event of type ERROR.
        """
        query = {**params, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=WATCH_SECONDS + 60)
        async with self._open.get(path, params=query, timeout=timeout) as response:
            if response.status >= 400:
                raise _error(response.status, "WATCH", path, await response.read())
            buffer = bytearray()
            # Objects may be larger than the line limit of the stream reader, so lines are cut here.
            async for chunk in response.content.iter_any():
                buffer += chunk
                *lines, rest = buffer.split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    if line:
                        yield json.loads(line)
