"""The whole corpus of hostile images against the real server process."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.hostile_corpus import corpus, encoded, picture

pytestmark = [pytest.mark.server, pytest.mark.slow]

MAX_PIXELS = 17_000_000
MAX_GROWTH_BYTES = 700 * 1024**2
"""Twice, for both threads of the pool, about 20 bytes for each of the pixels that are allowed."""
REFUSALS = {400, 413, 415}
SECONDS = 60.0


def peak_memory(pid: int) -> int:
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def test_the_corpus_is_large() -> None:
    assert len(corpus()) >= 200


def test_hostile_images_are_refused_and_the_server_lives_on(start_server: Any) -> None:
    server = start_server(MAX_PIXELS=str(MAX_PIXELS))
    url = server.wait_for_ready()
    answers: dict[str, int] = {}
    with httpx.Client(base_url=url, timeout=SECONDS) as client:
        good = encoded(picture(), "JPEG")
        assert client.post("/predict", files={"file": good}).status_code == 200
        before = peak_memory(server.process.pid)
        for name, data in corpus().items():
            response = client.post("/predict", files={"file": data})
            answers[name] = response.status_code
            if response.status_code != 200:
                assert response.status_code in REFUSALS, (name, response.text)
                assert response.headers["content-type"] == "application/problem+json", name
                assert set(response.json()) >= {"type", "title", "status", "detail"}, name
        growth = peak_memory(server.process.pid) - before
        assert client.post("/predict", files={"file": good}).status_code == 200
        assert client.get("/healthz").status_code == 200
    assert growth < MAX_GROWTH_BYTES
    assert "Traceback" not in server.log
    accepted = {name for name, status in answers.items() if status == 200}
    # What is sound up to its first picture may pass; whatever is no image, or announces more than is allowed, may not.
    wrong = re.compile(r"megapixels|gigapixels|terapixels|largest-sides|million|100000|without-end$|^format-|^empty$")
    assert not {name for name in accepted if wrong.search(name)}
