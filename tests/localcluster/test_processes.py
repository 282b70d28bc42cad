from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from localcluster import processes
from localcluster.settings import CLUSTER_MARKER

if TYPE_CHECKING:
    from pathlib import Path

Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    started: list[subprocess.Popen[bytes]] = []

    def start(script: str, **options: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", f"print(flush=True); {script}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **options)  # type: ignore[call-overload]
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


SLEEP = "import time; time.sleep(600)"


def test_command_with_spaces_and_parentheses_is_parsed() -> None:
    fields = " ".join(str(number) for number in range(4, 53))
    stat = processes.parse_stat(f"12 (a) b (c)) S {fields}")
    assert (stat.state, stat.session, stat.start_time) == ("S", 6, 22)


def test_reused_pid_is_not_the_process_that_was_recorded(spawn: Spawn) -> None:
    process = spawn(SLEEP)
    identity = processes.identify(process.pid)
    assert identity is not None
    earlier = replace(identity, start_time=identity.start_time - 1)
    processes.send(earlier, processes.signal.SIGKILL)
    assert processes.alive(identity)
    assert not processes.alive(earlier)
    processes.send(identity, processes.signal.SIGKILL)
    process.wait(timeout=10)
    assert not processes.alive(identity)


def test_process_is_found_by_its_environment(spawn: Spawn, tmp_path: Path) -> None:
    marked = spawn(SLEEP, env={CLUSTER_MARKER: "abc"})
    spawn(SLEEP, env={CLUSTER_MARKER: "abcd"})
    assert [found.pid for found in processes.find("abc", tmp_path, tmp_path)] == [marked.pid]


def test_process_is_found_by_its_recorded_session(spawn: Spawn, tmp_path: Path) -> None:
    process = spawn(SLEEP)
    processes.record(tmp_path, "one", process.pid)
    assert [found.pid for found in processes.find("abc", tmp_path, tmp_path)] == [process.pid]


def test_session_of_a_reused_pid_is_left_alone(spawn: Spawn, tmp_path: Path) -> None:
    process = spawn(SLEEP)
    identity = processes.identify(process.pid)
    assert identity is not None
    earlier = replace(identity, start_time=identity.start_time - 1)
    (tmp_path / "one.json").write_text(json.dumps(asdict(earlier)))
    assert processes.find("abc", tmp_path, tmp_path) == []


def test_damaged_record_is_no_process(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("{")
    assert processes.read_record(tmp_path / "one.json") is None
    assert processes.read_record(tmp_path / "none.json") is None


def test_sweep_ends_the_stubborn_too(spawn: Spawn, tmp_path: Path) -> None:
    stubborn = spawn(
        f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}", env={CLUSTER_MARKER: "abc"}
    )
    polite = spawn(SLEEP, env={CLUSTER_MARKER: "abc"})

    def find() -> list[processes.ProcessIdentity]:
        for process in (stubborn, polite):
            process.poll()
        return processes.find("abc", tmp_path, tmp_path)

    assert processes.sweep(find, grace=0.2) == (2, [])
    assert stubborn.wait(timeout=10) == -processes.signal.SIGKILL


def test_caller_is_never_found(tmp_path: Path) -> None:
    processes.record(tmp_path, "self", os.getpid())
    assert os.getpid() not in [found.pid for found in processes.find("abc", tmp_path, tmp_path)]
