import logging
from pathlib import Path

import pytest

from depth_server.reloading_file import MAX_FILE_BYTES, ReloadingFile


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def number(content: bytes) -> int:
    return int(content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "number"
    file.write_text("1")
    return file


def change(path: Path, content: str | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_text(content)


async def test_a_change_is_seen_after_the_interval(path: Path) -> None:
    clock = Clock()
    file = ReloadingFile(path, number, interval_seconds=10, clock=clock)
    change(path, "2")
    assert await file.current() == 1
    clock.now = 10
    assert await file.current() == 2


@pytest.mark.parametrize("damage", ["no number", "x" * (MAX_FILE_BYTES + 1), None])
async def test_a_change_that_cannot_be_used_leaves_what_was_and_is_logged(
    path: Path, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    file = ReloadingFile(path, number, interval_seconds=10, clock=clock)
    change(path, damage)
    clock.now = 10
    with caplog.at_level(logging.ERROR):
        assert await file.current() == 1
    assert str(path) in caplog.text
    change(path, "3")
    clock.now = 20
    assert await file.current() == 3


def test_a_first_content_that_cannot_be_used_is_an_error(path: Path) -> None:
    path.write_text("no number")
    with pytest.raises(ValueError, match="no number"):
        ReloadingFile(path, number, interval_seconds=10, clock=Clock())
    with pytest.raises(FileNotFoundError):
        ReloadingFile(path.with_name("missing"), number, interval_seconds=10, clock=Clock())
