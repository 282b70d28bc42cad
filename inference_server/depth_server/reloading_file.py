"""A small file of credentials, read again when it changes, as a mounted Secret does."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

logger = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 1024**2
"""Bytes of a file of credentials."""

Parsed = TypeVar("Parsed")


class ReloadingFile(Generic[Parsed]):
    """What a file says, as of at most `interval_seconds` ago.

    A change that cannot be read leaves what was read before in force and is logged: a typing error in one line must
    not lock everybody out.

    Args:
        path: The file.
        parse: Makes sense of its bytes; raises ValueError if there is none.
        interval_seconds: How often it is looked at.
        clock: Monotonic seconds.

    Raises:
        OSError: It cannot be read at first.
        ValueError: It makes no sense at first.
    """

    def __init__(
        self, path: Path, parse: Callable[[bytes], Parsed], *, interval_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._parse = parse
        self._interval = interval_seconds
        self._clock = clock
        self._looked_at = clock()
        self._content = read_limited(path)
        self._parsed = parse(self._content)

    async def current(self) -> Parsed:
        """Return what the file says."""
        now = self._clock()
        if now - self._looked_at >= self._interval:
            self._looked_at = now
            await self._reload()
        return self._parsed

    async def _reload(self) -> None:
        try:
            content = await asyncio.to_thread(read_limited, self._path)
            if content == self._content:
                return
            self._parsed = self._parse(content)
        except (OSError, ValueError) as error:
            logger.error("%s cannot be used as it is now, what it said before holds: %s", self._path, error)  # noqa: TRY400 the reason is in the message
            return
        self._content = content
        logger.info("%s has changed and was read again", self._path)


def read_limited(path: Path) -> bytes:
    """Read a file of at most `MAX_FILE_BYTES`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is larger.
    """
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        message = f"it has more than {MAX_FILE_BYTES} bytes"
        raise ValueError(message)
    return content
