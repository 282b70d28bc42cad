"""The chart's files among themselves; needs no helm."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from tests.chart.rendering import CHART, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def test_the_copy_of_the_custom_resource_definition_is_current() -> None:
    script = ROOT / "charts" / "sync_crds.py"
    result = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)

    assert result.returncode == 0, f"run `python charts/sync_crds.py`\n{result.stdout}{result.stderr}"


def test_the_defaults_are_valid() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


def leaves(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is set, by its path; objects without named properties are values."""
    for key, value in values.items():
        properties = schema.get("properties", {}).get(key, {})
        if isinstance(value, dict) and "properties" in properties:
            yield from leaves(value, properties, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def schema_leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in schema["properties"].items():
        if "properties" in value:
            yield from schema_leaves(value, f"{path}{key}.")
        elif f"{path}{key}" != "global":
            yield f"{path}{key}"


def test_schema_and_values_name_the_same() -> None:
    optional = {f"{component}.resources.claims" for component in ("operator", "metricsApi")}

    assert {path for path, _ in leaves(VALUES, SCHEMA)} == set(schema_leaves(SCHEMA)) - optional


def test_every_value_is_described() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    undescribed = [
        line
        for before, line in itertools.pairwise(lines)
        if ":" in line and not line.lstrip().startswith("#") and not before.lstrip().startswith("# --")
    ]
    sections = {
        "crds",
        "image",
        "serverImage",
        "prometheus",
        "podMonitor",
        "scaling",
        "operator",
        "metricsApi",
        "tls",
        "rbac",
    }
    parts_of_resources = {"requests", "limits", "cpu", "memory"}

    assert {line.split(":")[0].strip() for line in undescribed} <= sections | parts_of_resources


@pytest.mark.parametrize("path", [(), ("crds",), ("image",), ("operator",), ("metricsApi",), ("metricsApi", "tls")])
def test_unknown_values_are_refused_everywhere(path: tuple[str, ...]) -> None:
    values = json.loads(json.dumps(VALUES))
    target = values
    for key in path:
        target = target[key]
    target["unknown"] = 1

    with pytest.raises(jsonschema.ValidationError, match="unknown"):
        jsonschema.validate(values, SCHEMA)
