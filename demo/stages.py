"""Stages of the demo: each is announced, shows progress, is timed, and lands in the report."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

HEARTBEAT_SECONDS = 10.0


class DemoError(Exception):
    """A stage could not be completed; the message says which, why, and where to look."""


@dataclass
class Progress:
    """What the running stage says; on a terminal one moving line, elsewhere a line whenever the text changes."""

    _update: Callable[[str], None]
    outcome: str = ""

    def say(self, text: str) -> None:
        """Shows ``text`` as the stage's present state."""
        self._update(text)


@dataclass
class StageRecord:
    """One line of the closing table."""

    name: str
    seconds: float
    outcome: str
    overlaps: bool = False
    """Ran at the same time as the others that overlap."""


@dataclass
class Stages:
    """The stages run so far."""

    console: Console
    clock: Callable[[], float] = time.monotonic
    records: list[StageRecord] = field(default_factory=list)

    def add(self, name: str, seconds: float, outcome: str, *, overlaps: bool = False) -> None:
        """Records a stage that was run elsewhere."""
        self.records.append(StageRecord(name, seconds, outcome, overlaps))

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Runs the body as the stage ``name``; the body sets ``outcome``."""
        begin = self.clock()
        shown_text, shown_at = "", begin
        self.console.print(f"[bold]{name}[/bold]")
        with self.console.status(name) as status:

            def update(text: str) -> None:
                nonlocal shown_text, shown_at
                now = self.clock()
                line = f"{name}: {text} ({now - begin:.0f} s)"
                if self.console.is_terminal:
                    status.update(line)
                elif text != shown_text or now - shown_at >= HEARTBEAT_SECONDS:
                    self.console.print(f"  {line}", highlight=False)
                    shown_text, shown_at = text, now

            progress = Progress(update)
            yield progress
        seconds = self.clock() - begin
        self.records.append(StageRecord(name, round(seconds, 1), progress.outcome))
        self.console.print(f"  {progress.outcome} ({seconds:.1f} s)", highlight=False)
