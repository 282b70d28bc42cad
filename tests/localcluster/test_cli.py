from __future__ import annotations

import argparse
import io
from pathlib import Path

import pytest

from localcluster.cli import image_option, options_of, parser, table
from localcluster.components import ComponentStatus, StatusBoard, tail
from localcluster.errors import LocalClusterError
from localcluster.network import ClusterNetwork
from localcluster.progress import Progress
from localcluster.settings import ClusterOptions
from localcluster.state import StateDir
from localcluster.supervisor import take_number


@pytest.mark.parametrize("arguments", [["--state-dir", "x", "status"], ["status", "--state-dir", "x"]])
def test_state_folder_is_taken_before_and_after_the_command(arguments: list[str]) -> None:
    assert parser().parse_args(arguments).state_dir == Path("x")
    assert parser().parse_args(["status"]).state_dir == Path(".localcluster")


def test_options_of_up_survive_the_state_folder(tmp_path: Path) -> None:
    arguments = parser().parse_args(
        ["up", "--gpus", "2", "--image", "a/b:1=sh -c 'echo x=y'", "--number", "3", "--audit", "--backoff-base", "0.5"]
    )
    options = options_of(arguments)
    assert options.images == {"a/b:1": ("sh", "-c", "echo x=y")}
    state = StateDir.at(tmp_path)
    state.create()
    state.write_options(options)
    assert state.read_options() == options


def test_options_of_another_version_are_read() -> None:
    assert ClusterOptions.from_json('{"gpus": 3, "unheard_of": 1}') == ClusterOptions(gpus=3)


@pytest.mark.parametrize("text", ["name", "=sh", "name=", ""])
def test_image_without_name_or_command_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=COMMAND"):
        image_option(text)


def test_table_shows_every_component(tmp_path: Path) -> None:
    board = StatusBoard(tmp_path / "status.json", number=1)
    board.put(ComponentStatus("etcd", "127.2.0.1:2379", "running", 12, 100.0, "log"))
    board.put(ComponentStatus("kube-scheduler", "", "dead", 13, 100.0, "log", "exited with 1"))
    state = StateDir.at(tmp_path)
    status = state.read_status()
    assert status is not None
    assert table(status, 142.0).splitlines() == [
        "COMPONENT       PID  STATE    AGE  ADDRESS",
        "etcd            12   running  42s  127.2.0.1:2379",
        "kube-scheduler  13   dead     -",
    ]


def test_tail_of_a_long_log_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{number}\n" for number in range(100_000)))
    assert tail(path, 2) == ["99998", "99999"]
    assert tail(tmp_path / "none") == []


def test_number_of_a_state_folder_is_fixed() -> None:
    with pytest.raises(LocalClusterError, match="holds cluster number 2, not 3"):
        take_number(3, 2)


def test_number_in_use_is_refused_and_the_next_one_taken() -> None:
    number, held = take_number(None, None)
    with held:
        assert held.getsockname()[0] == ClusterNetwork(number).node_loopback
        with pytest.raises(LocalClusterError, match=f"cluster number {number} is in use"):
            take_number(number, None)
        other, endpoint = take_number(None, None)
        with endpoint:
            assert other != number


def test_progress_shows_both_builds_within_the_width() -> None:
    progress = Progress(io.StringIO())
    progress.start("controlplane", "x" * 300)
    progress.start("prometheus", "short")
    line = progress.line(80)
    assert len(line) <= 80
    assert "controlplane 0s xxx" in line
    assert "prometheus 0s short" in line
