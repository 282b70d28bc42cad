"""Lines for people: one that moves on a terminal, one every few seconds elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PLAIN_INTERVAL_SECONDS = 15.0
"""Interval between two lines where the output is no terminal."""

TERMINAL_INTERVAL_SECONDS = 0.2
"""Interval between two redraws on a terminal."""


class Progress:
    """Shows what is being done, since when, and how far it is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._running: dict[str, tuple[float, str]] = {}
        self._drawn = False

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._clear()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def start(self, name: str, detail: str) -> None:
        """Begin to show an activity."""
        self._running[name] = (time.monotonic(), detail)

    def update(self, name: str, detail: str) -> None:
        """Change what is said about an activity."""
        started, _ = self._running.get(name, (time.monotonic(), ""))
        self._running[name] = (started, detail)

    def finish(self, name: str) -> None:
        """Stop showing an activity."""
        self._running.pop(name, None)
        self._clear()

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._drawn = False

    def line(self, width: int) -> str:
        """Return the moving line, cut to `width` characters."""
        now = time.monotonic()
        parts = [f"{name} {_duration(now - started)} {detail}" for name, (started, detail) in self._running.items()]
        share = max(20, width // max(1, len(parts)) - 3)
        return " | ".join(part[:share] for part in parts)[:width]

    @contextlib.asynccontextmanager
    async def showing(self) -> AsyncIterator[None]:
        """Redraw the moving line while the block runs."""
        task = asyncio.create_task(self._draw())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._clear()

    async def _draw(self) -> None:
        while True:
            await asyncio.sleep(TERMINAL_INTERVAL_SECONDS if self._terminal else PLAIN_INTERVAL_SECONDS)
            if not self._running:
                continue
            if self._terminal:
                self._stream.write(f"\r\x1b[K{self.line(shutil.get_terminal_size().columns - 1)}")
                self._drawn = True
            else:
                self._stream.write(f"{self.line(200)}\n")
            self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
