"""What `make demo` tells and writes, without a cluster: stages, report, load, pictures."""

from __future__ import annotations

import base64
import http.server
import io
import json
import threading
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from rich.console import Console

from demo import picture
from demo.commands import Commands, wait_until
from demo.load import Load
from demo.report import Report
from demo.stages import DemoError, Stages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stages(clock: Clock) -> Stages:
    return Stages(Console(file=io.StringIO(), width=160), clock)


def printed(stages: Stages) -> str:
    output = stages.console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_a_stage_is_timed_and_told(stages: Stages, clock: Clock) -> None:
    with stages.stage("weights") as progress:
        clock.now = 12.0
        progress.say("half way")
        progress.outcome = "written"
    assert [(record.name, record.seconds, record.outcome) for record in stages.records] == [
        ("weights", 12.0, "written")
    ]
    assert "weights: half way (12 s)" in printed(stages)
    assert "written (12.0 s)" in printed(stages)


def test_without_a_terminal_an_unchanged_state_is_repeated_only_as_a_sign_of_life(stages: Stages, clock: Clock) -> None:
    with stages.stage("ready") as progress:
        for second in range(25):
            clock.now = float(second)
            progress.say("warming up")
    assert printed(stages).count("warming up") == 3  # at 0, 10 and 20 s


def test_stages_side_by_side_count_once_in_the_total(stages: Stages, tmp_path: Path) -> None:
    stages.add("environment", 100.0, "made", overlaps=True)
    stages.add("binaries", 400.0, "made", overlaps=True)
    stages.add("cluster", 5.0, "up")
    report = Report(stages.records, facts={"url": "http://127.0.0.1"}, next_commands=["make demo-down"])
    report.write(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["total_seconds"] == 405.0
    assert [stage["name"] for stage in content["stages"]] == ["environment", "binaries", "cluster"]
    assert content["url"] == "http://127.0.0.1"
    assert content["machine"]["processors"] >= 1
    report.show(stages.console)
    assert "405.0" in printed(stages)
    assert "make demo-down" in printed(stages)


def test_the_depth_map_of_an_answer_is_recovered_and_shown_bright_where_large(tmp_path: Path) -> None:
    levels = np.array([[0, 65535], [32768, 16384]], np.uint16)
    encoded, png = cv2.imencode(".png", levels)
    assert encoded
    answer = {"depth_map": base64.b64encode(png.tobytes()).decode(), "min": 2.0, "max": 6.0}
    depth = picture.decode_depth(answer)
    np.testing.assert_allclose(depth, [[2.0, 6.0], [4.0, 3.0]], atol=1e-4)
    picture.write_results(depth, tmp_path / "depth.png", tmp_path / "depth.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "depth.npy"), depth)
    colours = cv2.imread(str(tmp_path / "depth.png"))
    assert colours is not None
    assert colours[0, 1].sum() > colours[0, 0].sum()


def test_a_flat_depth_map_has_a_picture_too() -> None:
    assert picture.colourise(np.ones((2, 3), np.float32)).shape == (2, 3, 3)


class Counting(http.server.BaseHTTPRequestHandler):
    """Answers 200 to every other post and 429 to the rest."""

    posts = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        Counting.posts += 1
        self.send_response(200 if Counting.posts % 2 else 429)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/predict"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_load_counts_answers_by_status_and_ends(endpoint: str) -> None:
    with Load(endpoint, b"image", clients=2, max_seconds=60.0) as load:
        wait_until(lambda: load.answers.total() >= 6, what="six answers", timeout_seconds=30)
    assert set(load.answers) <= {200, 429}
    assert load.answers[200] > 0
    assert not any(thread.is_alive() for thread in load._threads)


def test_the_load_ends_by_itself(endpoint: str) -> None:
    load = Load(endpoint, b"image", clients=1, max_seconds=0.0)
    with load:
        pass
    assert load.answers.total() == 0


def test_what_does_not_happen_in_time_is_told_with_what_is_there() -> None:
    with pytest.raises(DemoError, match="a second replica did not happen within 0 s\n1 of 2 pods"):
        wait_until(lambda: False, what="a second replica", timeout_seconds=0.0, explain=lambda: "1 of 2 pods")


def test_a_failing_command_tells_its_own_message(tmp_path: Path) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\necho 'error: no such kind' >&2\nexit 3\n")
    kubectl.chmod(0o755)
    commands = Commands(kubectl, kubectl, tmp_path / "kubeconfig")
    with pytest.raises(DemoError, match=r"ended with 3: error: no such kind"):
        commands.kubectl("get", "nothing")
