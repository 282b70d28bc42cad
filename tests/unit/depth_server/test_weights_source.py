"""Weights are found or downloaded, verified, and a pickle is converted once; the settings say what is missing."""

import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from depth_server.errors import StartupError, StartupReason
from depth_server.file_lock import locked, replacing
from depth_server.settings import Settings, load_settings
from depth_server.weights_source import converted, obtain_weights
from tests.unit.depth_server.hub import FakeHub, running

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}


def pickle_of(folder: Path) -> Path:
    path = folder / "depth_anything_v2_vits.pth"
    torch.save(STATE, path)
    return path


def settings_of(tmp_path: Path, **values: Any) -> Settings:
    return Settings(cache_folder=tmp_path / "cache", model_family="DepthAnythingV2", model_variant="ViTS14", **values)


def test_pickle_is_converted_once(tmp_path: Path) -> None:
    source, told = pickle_of(tmp_path), []
    weights = obtain_weights(settings_of(tmp_path, weights=source), told.append)
    assert weights.path == tmp_path / "cache" / "weights" / f"{weights.sha256}.safetensors"
    loaded = safetensors.torch.load_file(weights.path)
    assert all(torch.equal(loaded[key], value) and loaded[key].dtype is value.dtype for key, value in STATE.items())
    assert told == ["depth_anything_v2_vits.pth is being converted to safetensors"]
    written = weights.path.stat().st_mtime_ns
    assert obtain_weights(settings_of(tmp_path, weights=source), told.append) == weights
    assert weights.path.stat().st_mtime_ns == written
    assert len(told) == 1
    torch.save({"a": torch.zeros(1)}, source)
    assert obtain_weights(settings_of(tmp_path, weights=source), told.append).path != weights.path


def test_safetensors_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(STATE, path)
    assert obtain_weights(settings_of(tmp_path, weights=path), print).path == path
    assert not (tmp_path / "cache").exists()


def test_pickle_is_loaded_unconverted_where_the_cache_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = pickle_of(tmp_path)
    (tmp_path / "cache").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert converted(source, "ab" * 32, tmp_path / "cache" / "weights", print) == source
    assert "loaded unconverted" in caplog.text


def test_pickle_with_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"a": Path}, path)
    with pytest.raises(StartupError) as caught:
        converted(path, "ab" * 32, tmp_path / "cache", print)
    assert caught.value.reason is StartupReason.WEIGHTS_INVALID
    assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".lock"]


def test_repository_is_downloaded_verified_and_converted(tmp_path: Path) -> None:
    with running(FakeHub(pickle_of(tmp_path).read_bytes())) as hub:
        values = {
            "weights_endpoint": hub.endpoint,
            "weights_repository": "owner/model",
            "weights_file": "model.pth",
            "weights_sha256": hub.sha256,
        }
        told: list[str] = []
        weights = obtain_weights(settings_of(tmp_path, **values), told.append)
        assert weights.sha256 == hub.sha256
        assert weights.path.suffix == ".safetensors"
        assert any("MB downloaded" in line for line in told)
        with pytest.raises(StartupError) as caught:
            obtain_weights(settings_of(tmp_path / "b", **values | {"weights_sha256": "0" * 64}), print)
        assert caught.value.reason is StartupReason.DIGEST_MISMATCH
    offline = obtain_weights(settings_of(tmp_path, **values, weights_offline=True), print)
    assert offline == weights


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "DEPTH_SERVER_WEIGHTS is not set, nor is DEPTH_SERVER_WEIGHTS_REPOSITORY"),
        ({"WEIGHTS": "a.pth", "WEIGHTS_REPOSITORY": "o/n"}, "both set"),
        ({"WEIGHTS_REPOSITORY": "o/n"}, "DEPTH_SERVER_WEIGHTS_FILE is not set"),
        ({"WEIGHTS_REPOSITORY": "o/n", "WEIGHTS_FILE": "a/../../b.pth"}, "must not contain '..'"),
        ({"WEIGHTS_REPOSITORY": "../n", "WEIGHTS_FILE": "b.pth"}, "DEPTH_SERVER_WEIGHTS_REPOSITORY=../n"),
        ({"WEIGHTS": "a.pth", "WEIGHTS_ENDPOINT": "ftp://hub"}, "DEPTH_SERVER_WEIGHTS_ENDPOINT=ftp://hub"),
        ({"WEIGHTS": "a.pth", "PRECISION": "INT8"}, "needs DEPTH_SERVER_BACKEND=ONNXRuntime"),
        ({"WEIGHTS": "a.pth", "BACKEND": "ONNXRuntime", "PRECISION": "BF16"}, "runs on the CPU in FP32 or INT8"),
        ({"WEIGHTS": "a.pth", "BACKEND": "TensorRT", "DEVICE": "cpu"}, "needs a GPU"),
    ],
)
def test_impossible_settings_are_told(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"DEPTH_SERVER_{name}", value)
    with pytest.raises(StartupError) as caught:
        load_settings()
    assert caught.value.reason is StartupReason.INVALID_SETTINGS
    assert told in str(caught.value)


def test_long_source_names_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        settings_of(tmp_path, weights_repository="o/" + "n" * 300, weights_file="a.pth")


def test_lock_is_waited_for_and_given_up(tmp_path: Path) -> None:
    now = [0.0]
    with locked(tmp_path / "file", 1), pytest.raises(TimeoutError, match="worked on by another process"):  # noqa: SIM117
        with locked(
            tmp_path / "file", 5, clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
        ):
            pass
    assert now[0] >= 5
    with locked(tmp_path / "file", 0):
        pass


def test_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "file.npy"

    def fail_half_way() -> None:
        with replacing(target) as partial:
            partial.write_text("half")
            raise ValueError(partial)

    with pytest.raises(ValueError, match="partial"):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with replacing(target) as partial:
        assert partial.suffix == ".npy"
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
