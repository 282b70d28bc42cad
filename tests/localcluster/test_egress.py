from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from localcluster import egress, forward
from localcluster.errors import LocalClusterError


def test_connect_request_names_its_target() -> None:
    assert egress.parse_connect(b"CONNECT 10.96.0.1:443 HTTP/1.1\r\nHost: x\r\n\r\n") == ("10.96.0.1", 443)
    assert egress.parse_connect(b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n") == ("::1", 443)


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\n\r\n", b"CONNECT x HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"CONNECT a:b c\r\n"]
)
def test_other_requests_are_refused(head: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any reason why it is no CONNECT request with a port
        egress.parse_connect(head)


def test_first_folder_that_is_short_enough_holds_the_socket() -> None:
    deep, short = Path("/deep" * 30), Path("/short")
    assert egress.short_socket_path([deep, short], "s") == short / "s"
    with pytest.raises(LocalClusterError, match="set TMPDIR"):
        egress.short_socket_path([deep], "s")


def test_configuration_names_the_socket() -> None:
    (selection,) = json.loads(egress.selector_configuration(Path("/run/x.sock")))["egressSelections"]
    assert selection["connection"]["transport"]["uds"]["udsName"] == "/run/x.sock"


def test_socket_that_was_left_behind_is_removed(tmp_path: Path) -> None:
    configuration, left = tmp_path / "egress.json", tmp_path / "s"
    egress.remove_socket(configuration)
    configuration.write_text(egress.selector_configuration(left))
    left.touch()
    egress.remove_socket(configuration)
    egress.remove_socket(configuration)
    assert not left.exists()


async def test_cluster_address_is_dialled_on_the_loopback(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await forward.close(writer)

    behind = await asyncio.start_server(echo, "127.250.0.1", 0)
    port = behind.sockets[0].getsockname()[1]
    proxy = await egress.start(tmp_path / "s")
    async with behind, proxy:
        assert await ask(tmp_path / "s", f"CONNECT 10.250.0.1:{port} HTTP/1.1\r\n\r\nhello\n") == (
            b"HTTP/1.1 200 Connection established\r\n\r\nhello\n"
        )
        refused = await ask(tmp_path / "s", "CONNECT 10.250.0.2:1 HTTP/1.1\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 502 ")
        assert (await ask(tmp_path / "s", "GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def ask(socket: Path, text: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(text.encode())
    answer = await reader.read()
    await forward.close(writer)
    return answer
