"""HTTP CONNECT proxy through which kube-apiserver reaches pods, Services and the node.

kube-apiserver is told to use it by an EgressSelectorConfiguration
(https://kubernetes.io/docs/tasks/extend-kubernetes/setup-konnectivity/); the proxy applies the network's rules.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from localcluster import forward
from localcluster.errors import LocalClusterError
from localcluster.network import reach
from localcluster.settings import PROXY_CONNECT_SECONDS, UNIX_PATH_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 16384
"""Longest CONNECT request that is read."""


def parse_connect(head: bytes) -> tuple[str, int]:
    """Return host and port of a CONNECT request.

    Raises:
        ValueError: If it is no CONNECT request with a port.
    """
    method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ", 2)
    if method != "CONNECT":
        msg = f"expected CONNECT, got {method}"
        raise ValueError(msg)
    host, port = target.rsplit(":", 1)
    return host.strip("[]"), int(port)


def short_socket_path(folders: Iterable[Path], name: str) -> Path:
    """Return the first `folder/name` that fits into a unix socket address.

    Raises:
        LocalClusterError: If every folder's path is too long.
    """
    tried = []
    for folder in folders:
        path = folder / name
        if len(os.fsencode(path)) <= UNIX_PATH_BYTES:
            return path
        tried.append(str(path))
    msg = f"no folder for a unix socket is short enough ({UNIX_PATH_BYTES} bytes): {', '.join(tried)}; set TMPDIR"
    raise LocalClusterError(msg)


def socket_candidates(state: Path) -> list[Path]:
    """Return folders that may hold the socket, the state folder first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    temporary = [Path(runtime)] if runtime and Path(runtime).is_dir() else []
    return [state, *temporary, Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108 - the last resort for short paths; the socket is made 0600


def selector_configuration(path: Path) -> str:
    """Return the EgressSelectorConfiguration that sends cluster traffic to the socket."""
    connection = {"proxyProtocol": "HTTPConnect", "transport": {"uds": {"udsName": str(path)}}}
    return json.dumps(
        {
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [{"name": "cluster", "connection": connection}],
        },
        indent=2,
    )


def remove_socket(configuration: Path) -> None:
    """Remove the socket that a configuration names: a supervisor that was killed has left it behind."""
    if configuration.exists():
        (selection,) = json.loads(configuration.read_text())["egressSelections"]
        Path(selection["connection"]["transport"]["uds"]["udsName"]).unlink(missing_ok=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        host, port = parse_connect(await reader.readuntil(b"\r\n\r\n"))
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        log.warning("egress: bad request: %s", error)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await forward.close(writer)
        return
    target = reach(host, port)
    try:
        async with asyncio.timeout(PROXY_CONNECT_SECONDS):
            onward = await asyncio.open_connection(*target)
    except (OSError, TimeoutError) as error:
        log.info("egress: %s:%d at %s:%d: %s", host, port, *target, str(error) or "timed out")
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        await forward.close(writer)
        return
    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
    await forward.join((reader, writer), onward)


def _bind(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    # Nobody can connect before asyncio listens.
    path.chmod(0o600)
    return listener


async def start(path: Path) -> asyncio.Server:
    """Listen on the unix socket; only the owner may connect."""
    return await asyncio.start_unix_server(_serve, sock=_bind(path), limit=MAX_HEAD_BYTES)
