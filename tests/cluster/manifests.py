"""DepthServices for these tests: the example, made small enough for many of them on two cores."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from demo.commands import Commands

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/depthservice.yaml"
SMALL_INPUT_SIZE = 126


def depth_service(name: str, **spec: Any) -> dict[str, Any]:
    """The example under another name, with a small input size and members of `spec` replaced (None: removed)."""
    manifest: dict[str, Any] = copy.deepcopy(yaml.safe_load(EXAMPLE.read_text()))
    manifest["metadata"]["name"] = name
    manifest["spec"]["runtime"]["inputSize"] = SMALL_INPUT_SIZE
    for member, value in spec.items():
        if value is None:
            manifest["spec"].pop(member, None)
        else:
            manifest["spec"][member] = value
    return manifest


def apply(commands: Commands, manifest: dict[str, Any], folder: Path) -> None:
    """What `kubectl apply -f` does with the manifest."""
    file = folder / f"{manifest['metadata']['name']}.json"
    file.write_text(json.dumps(manifest))
    commands.kubectl("apply", "--filename", str(file))
