"""Copying bytes between two TCP connections."""

from __future__ import annotations

import asyncio
import contextlib

from localcluster.settings import PROXY_CHUNK_BYTES

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(PROXY_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            # Half-close: the other direction may still carry the answer.
            writer.write_eof()
    except (ConnectionError, OSError):
        writer.transport.abort()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection whatever state it is in."""
    writer.close()
    with contextlib.suppress(ConnectionError, OSError):
        await writer.wait_closed()


async def join(first: Connection, second: Connection) -> None:
    """Copy both directions until both are at their end, then close both connections."""
    try:
        await asyncio.gather(_pump(first[0], second[1]), _pump(second[0], first[1]))
    finally:
        first[1].close()
        second[1].close()
    await asyncio.gather(close(first[1]), close(second[1]))
