"""The settings and their reference."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

import depth_operator
from depth_operator.__main__ import main
from depth_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs/reference/operator-settings.md"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"DEPTH_OPERATOR_{name.upper()}", raising=False)


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| `DEPTH_OPERATOR_([A-Z0-9_]+)` \| ([^|]+) \|", DOCUMENT.read_text(), re.MULTILINE)
    return {name.lower(): default.strip().strip("`") for name, default in rows}


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert set(documented()) == set(Settings.model_fields)


def test_the_documented_defaults_are_the_defaults() -> None:
    settings = Settings()
    for name, default in documented().items():
        value = getattr(settings, name)
        expected = default.replace("<version>", depth_operator.__version__)
        if isinstance(value, bool):
            assert expected == str(value).lower(), name
        elif isinstance(value, int | float):
            assert float(expected) == value, name
        else:
            assert expected.replace("empty", "") == (value or ""), name


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == depth_operator.__version__


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_OPERATOR_WATCH_NAMESPACE", "")
    assert Settings().watch_namespace is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "0"),
        ("LEASE_DURATION_SECONDS", "5"),
        ("API_TIMEOUT_SECONDS", "6"),
        ("WATCH_NAMESPACE", "Not_A_Namespace"),
        ("PROMETHEUS_ADDRESS", "prometheus:9090"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DEPTH_OPERATOR_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_a_refused_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEPTH_OPERATOR_WORKERS", "many")
    assert main(["run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("InvalidSettings: DEPTH_OPERATOR_WORKERS: ")
    assert len(said.splitlines()) == 1


def test_without_the_lease_the_timeout_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_OPERATOR_LEADER_ELECT", "false")
    monkeypatch.setenv("DEPTH_OPERATOR_API_TIMEOUT_SECONDS", "20")
    assert Settings().api_timeout_seconds == 20
