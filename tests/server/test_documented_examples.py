"""Every example of `docs/reference/http-api.md` is run as it stands, against the real server process."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import sklearn.datasets

from tests.server.conftest import ServerProcess

pytestmark = pytest.mark.server

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "http-api.md").read_text()
ADDRESS = "127.0.0.1:8000"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PHOTO = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"

EXAMPLES = [
    (language, code)
    for language, code in BLOCK.findall(PAGE)
    if ADDRESS in code or language == "python"  # the others start a server
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would try them, one after the other; an answer that is an error fails curl."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(PHOTO, folder / "photo.jpg")
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 60\n")
    return folder


@pytest.mark.parametrize(
    ("language", "code"), EXAMPLES, ids=[f"{number}-{language}" for number, (language, _) in enumerate(EXAMPLES)]
)
def test_example(language: str, code: str, server: ServerProcess, folder: Path) -> None:
    code = code.replace(ADDRESS, server.url.removeprefix("http://"))
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "CURL_HOME": str(folder), "HOME": str(folder)}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120, check=False)
    assert run.returncode == 0, (run.stdout + run.stderr).decode(errors="replace")


def test_examples_leave_what_they_promise(folder: Path) -> None:
    assert len(EXAMPLES) >= 13
    depth = np.load(folder / "depth.npy")
    assert (depth.shape, depth.dtype) == ((427, 640), np.float32)
    for name, kind in (("depth.png", np.uint16), ("depth.tiff", np.float32), ("depth.jpg", np.uint8)):
        picture = cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED)
        assert picture is not None
        assert (picture.dtype, picture.shape[:2]) == (kind, (427, 640))
    headers = (folder / "headers.txt").read_text()
    assert "x-depth-min:" in headers.lower()
    assert len(json.loads((folder / "batch.json").read_text())["results"]) == 2


def test_every_endpoint_is_documented(server: ServerProcess) -> None:
    paths = httpx.get(server.url + "/openapi.json").json()["paths"]
    for path in paths:
        shown = path.replace("{model}", "depth_anything_v2_vits14")
        assert re.search(rf"{re.escape(ADDRESS + shown)}(?=['\s?])", PAGE), path
