"""The body of a request, read at most once and within bounds."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from depth_server.errors import InvalidRequestError, UploadTimeoutError

Received = TypeVar("Received")

DISCARD_SECONDS: Final = 2.0
"""How long the rest of a refused body is read: a client that still sends may never see an answer that comes with a
closed connection."""


class Body:
    """A request's body, counted and read at most once."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.is_complete = False
        self._is_begun = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives."""
        self._is_begun = True
        async for chunk in self._request.stream():
            if chunk:
                yield chunk
        self.is_complete = True

    async def receive(self, read: Callable[[AsyncIterator[bytes]], Awaitable[Received]], seconds: float) -> Received:
        """Read the body within a time.

        Args:
            read: Takes the chunks and gives what they mean.
            seconds: For all of it.

        Raises:
            UploadTimeoutError: It did not arrive in time.
            InvalidRequestError: The client left.
        """
        try:
            async with asyncio.timeout(seconds), aclosing(self.chunks()) as chunks:
                return await read(chunks)
        except TimeoutError as error:
            message = f"the body did not arrive within {seconds:g} s"
            raise UploadTimeoutError(message) from error
        except ClientDisconnect as error:
            message = "the client left during its upload"
            raise InvalidRequestError(message) from error

    async def discard(self, max_bytes: int) -> None:
        """Read and drop what is left, within bounds."""
        if self.is_complete:
            return
        if not self._is_begun and "expect" in self._request.headers:
            return  # the client waits for a go-ahead and has sent nothing
        dropped = 0
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while dropped <= max_bytes:
                    message = await self._request.receive()
                    dropped += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return
