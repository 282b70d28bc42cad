from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from localcluster.node.container import exit_code_of, termination_message, trim_log
from localcluster.node.kubelet_api import LogReader

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("returncode", "code"), [(0, 0), (3, 3), (-9, 137), (-15, 143)])
def test_signals_show_as_a_runtime_shows_them(returncode: int, code: int) -> None:
    assert exit_code_of(returncode) == code


@pytest.mark.parametrize(
    ("message", "policy", "code", "expected"),
    [
        ("said", "File", 1, "said"),
        ("", "File", 1, ""),
        ("said", "FallbackToLogsOnError", 1, "said"),
        ("", "FallbackToLogsOnError", 1, "one\ntwo"),
        ("", "FallbackToLogsOnError", 0, ""),
        ("x" * 5000, "File", 0, "x" * 4096),
    ],
)
def test_termination_message(tmp_path: Path, message: str, policy: str, code: int, expected: str) -> None:
    (tmp_path / "message").write_text(message)
    (tmp_path / "log").write_text("one\ntwo\n")
    assert termination_message(tmp_path / "message", tmp_path / "log", policy, code) == expected


def test_long_log_keeps_its_later_half_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [f"line {number:04}" for number in range(200)]
    with path.open("a") as writer:
        writer.write("\n".join(lines) + "\n")
        writer.flush()
        trim_log(path, 1000)
        writer.write("after\n")
    kept = path.read_text().splitlines()
    assert kept == [*lines[-(len(kept) - 1) :], "after"]
    assert 400 < path.stat().st_size <= 510
    trim_log(path, 1000)
    assert path.read_text().splitlines() == kept


def read(path: Path, lines: int | None = None, limit: int | None = None) -> bytes:
    with LogReader(path) as reader:
        reader.begin(lines, limit)
        return b"".join(iter(reader.read, b""))


def test_log_is_read_from_its_end_and_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntwo\nthree\n")
    assert read(path) == b"one\ntwo\nthree\n"
    assert read(path, lines=2) == b"two\nthree\n"
    assert read(path, lines=9) == b"one\ntwo\nthree\n"
    assert read(path, lines=0) == b""
    assert read(path, lines=2, limit=5) == b"two\nt"


def test_reader_follows_a_log_that_grows_and_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\n")
    with LogReader(path) as reader:
        reader.begin(0, None)
        with path.open("a") as writer:
            writer.write("two\n")
        assert reader.read() == b"two\n"
        path.write_text("cut\n")
        assert reader.read() == b"cut\n"
