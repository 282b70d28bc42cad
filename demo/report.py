"""The closing table and `demo/report.json`."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from demo.stages import StageRecord


@dataclass
class Report:
    """What the demo did and found."""

    stages: list[StageRecord] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    next_commands: list[str] = field(default_factory=list)

    @property
    def total_seconds(self) -> float:
        """Wall time of all stages; of those that ran side by side the longest counts."""
        overlapping = [stage.seconds for stage in self.stages if stage.overlaps]
        one_by_one = [stage.seconds for stage in self.stages if not stage.overlaps]
        return round(max(overlapping, default=0.0) + sum(one_by_one), 1)

    def write(self, path: Path) -> None:
        """Writes the report as JSON, with the machine named."""
        machine = {"system": platform.platform(), "processors": os.cpu_count(), "python": platform.python_version()}
        content = {
            "machine": machine,
            "stages": [asdict(stage) for stage in self.stages],
            "total_seconds": self.total_seconds,
            **self.facts,
            "next": self.next_commands,
        }
        path.write_text(json.dumps(content, indent=2) + "\n")

    def show(self, console: Console) -> None:
        """Prints the closing table and the commands to go on with."""
        table = Table(title="What ran", title_justify="left", show_edge=False)
        table.add_column("stage")
        table.add_column("seconds", justify="right")
        table.add_column("outcome", overflow="fold")
        for stage in self.stages:
            table.add_row(stage.name, f"{stage.seconds:.1f}", stage.outcome)
        table.add_row("in all", f"{self.total_seconds:.1f}", "", style="bold")
        console.print()
        console.print(table)
        console.print("\nGo on with:", highlight=False)
        for command in self.next_commands:
            console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)
