"""Writes the table of values in the chart's README from the comments in values.yaml; `--check` only compares."""  # noqa: INP001 - a script, part of no package

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent / "depth-operator"
BEGIN, END = "<!-- values: begin, written by charts/document_values.py -->", "<!-- values: end -->"
INDENT = 2


def documented_values(text: str) -> list[tuple[str, str]]:
    """Every value with a `# --` comment, as (dotted path, description), in the file's order."""
    path: list[str] = []
    description, found = "", []
    for line in text.splitlines():
        comment = re.match(r"\s*# -- (.*)", line)
        key = re.match(r"( *)([A-Za-z]+):", line)
        if comment:
            description = comment[1]
        elif key:
            path = [*path[: len(key[1]) // INDENT], key[2]]
            if description:
                found.append((".".join(path), description))
            description = ""
    return found


def value_at(values: dict[str, Any], path: str) -> object:
    """The default that values.yaml has at a dotted path."""
    value: Any = values
    for name in path.split("."):
        value = value[name]
    return value


def table(text: str) -> str:
    """The documented values as a Markdown table."""
    values = yaml.safe_load(text)
    rows = [
        f"| `{path}` | `{json.dumps(value_at(values, path))}` | {description} |"
        for path, description in documented_values(text)
    ]
    return "\n".join(["| value | default | meaning |", "|---|---|---|", *rows])


def render(readme: str, values: str) -> str:
    """The README with its table written anew.

    Raises:
        ValueError: The README has no marks around its table.
    """
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"{CHART / 'README.md'} has no lines {BEGIN!r} and {END!r}")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(values)}\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Entry point; 1 if `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="Write the chart README's table of values.")
    parser.add_argument("--check", action="store_true", help="compare only")
    arguments = parser.parse_args()
    path = CHART / "README.md"
    current = path.read_text()
    wanted = render(current, (CHART / "values.yaml").read_text())
    if wanted == current:
        return 0
    if arguments.check:
        sys.stderr.write(f"{path} is not what charts/document_values.py writes: run `make generate`\n")
        return 1
    path.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
