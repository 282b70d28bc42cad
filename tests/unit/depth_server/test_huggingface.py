"""A file of the Hub arrives complete, with its digest checked, through broken connections, or the reason is told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.errors import StartupError, StartupReason
from depth_server.huggingface import (
    MAX_BACKOFF_SECONDS,
    DownloadLimits,
    HubDownload,
    HubFile,
    backoff_seconds,
    parse_metadata,
    read_token,
)
from tests.unit.depth_server.hub import COMMIT, FakeHub, running

TOKEN = "hf_secret"  # noqa: S105 the fake hub's
CONTENT = bytes(range(256)) * 12_000  # 3 MB: several chunks


class Pauses:
    """A clock that only the pauses between requests move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def download(
    hub: FakeHub,
    cache: Path,
    *,
    revision: str = "main",
    file: str = "model.pth",
    token: str = "",
    attempts: int = 3,
    timeout: float = 3600,
    max_bytes: int = 10**8,
    pauses: Pauses | None = None,
    progress: list[tuple[int, int]] | None = None,
) -> HubDownload:
    pauses = pauses or Pauses()
    return HubDownload(
        HubFile(hub.endpoint, "owner/model", revision, file),
        cache=cache,
        token=token,
        limits=DownloadLimits(attempts=attempts, timeout_seconds=timeout, stall_seconds=5, max_bytes=max_bytes),
        on_progress=lambda received, size: (progress if progress is not None else []).append((received, size)),
        clock=pauses.clock,
        sleep=pauses.sleep,
    )


def failure(download: HubDownload, sha256: str = "") -> StartupError:
    with pytest.raises(StartupError) as caught:
        download.fetch(sha256)
    return caught.value


def test_file_arrives_and_is_not_asked_for_twice(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    with running(FakeHub(CONTENT)) as hub:
        path = download(hub, tmp_path, progress=progress).fetch(hub.sha256)
        assert path.read_bytes() == CONTENT
        assert path == tmp_path / "owner--model" / COMMIT / "model.pth"
        assert progress[-1] == (len(CONTENT), len(CONTENT))
        assert download(hub, tmp_path).fetch(hub.sha256) == path
        assert len(hub.ranges()) == 1
        asked = len(hub.requests)
        assert download(hub, tmp_path, revision=COMMIT).fetch(hub.sha256) == path
        assert len(hub.requests) == asked, "a commit does not move, so nothing is asked"
    assert download(hub, tmp_path).cached() == path


def test_broken_connections_are_resumed_where_they_broke(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT, break_after=[1_200_000, 1_100_000])) as hub:
        pauses = Pauses()
        path = download(hub, tmp_path, attempts=2, pauses=pauses).fetch("")
        assert path.read_bytes() == CONTENT
        first, second, third = hub.ranges()
    assert first is None
    assert second is not None
    assert third is not None
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in (second, third)]
    assert 0 < starts[0] <= 1_200_000
    assert starts[0] < starts[1] <= 2_300_000
    assert len(pauses.pauses) == 2


def test_next_start_goes_on_from_what_was_received(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT, break_after=[2_000_000, 0, 0, 0])) as hub:
        error = failure(download(hub, tmp_path))
        assert error.reason is StartupReason.DOWNLOAD_FAILED
        assert "3 requests in a row brought nothing" in str(error)
        hub.break_after.clear()
        asked = len(hub.ranges())
        assert download(hub, tmp_path).fetch("").read_bytes() == CONTENT
        resumed = hub.ranges()[asked]
    assert resumed is not None
    assert resumed != "bytes=0-"


def test_store_without_ranges_begins_again(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT, break_after=[1_500_000], honours_range=False)) as hub:
        assert download(hub, tmp_path).fetch("").read_bytes() == CONTENT


def test_wrong_bytes_are_removed_and_told(tmp_path: Path) -> None:
    tampered = b"x" + CONTENT[1:]
    with running(FakeHub(CONTENT, stored=tampered)) as hub:
        error = failure(download(hub, tmp_path))
    assert error.reason is StartupReason.DIGEST_MISMATCH
    assert hub.sha256 in str(error)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_announced_digest_other_than_the_pinned_one_costs_no_download(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT)) as hub:
        error = failure(download(hub, tmp_path), "0" * 64)
        assert hub.ranges() == []
    assert error.reason is StartupReason.DIGEST_MISMATCH


def test_pinned_digest_is_checked_where_the_hub_tells_none(tmp_path: Path) -> None:
    with running(FakeHub(b"small", is_lfs=False)) as hub:
        assert failure(download(hub, tmp_path), "0" * 64).reason is StartupReason.DIGEST_MISMATCH
        assert download(hub, tmp_path).fetch(hub.sha256).read_bytes() == b"small"


def test_busy_hub_is_asked_again(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT, statuses=[503, 429])) as hub:
        assert download(hub, tmp_path).fetch("").read_bytes() == CONTENT


def test_retries_are_bounded(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT, statuses=[503] * 50)) as hub:
        error = failure(download(hub, tmp_path, attempts=4))
        assert len(hub.requests) == 4
    assert error.reason is StartupReason.DOWNLOAD_FAILED
    assert "HTTP 503" in str(error)


def test_time_is_bounded(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT, statuses=[503] * 50)) as hub:
        error = failure(download(hub, tmp_path, attempts=50, timeout=5))
        assert len(hub.requests) < 50
    assert "DEPTH_SERVER_DOWNLOAD_TIMEOUT_SECONDS=5" in str(error)


def test_token_goes_to_the_hub_and_not_to_the_store(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT, token=TOKEN)) as hub:
        error = failure(download(hub, tmp_path))
        assert "DEPTH_SERVER_WEIGHTS_TOKEN_FILE" in str(error)
        assert download(hub, tmp_path, token=TOKEN).fetch("").read_bytes() == CONTENT
    for _, path, headers in hub.requests[1:]:
        assert ("authorization" in headers) == (not path.startswith("/store/"))
    assert TOKEN not in str(error)


def test_missing_file_is_told_with_its_address(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT)) as hub:
        error = failure(download(hub, tmp_path, file="other.pth"))
    assert error.reason is StartupReason.WEIGHTS_NOT_FOUND
    assert f"{hub.endpoint}/owner/model/resolve/main/other.pth" in str(error)


def test_file_above_the_bound_is_not_downloaded(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT)) as hub:
        error = failure(download(hub, tmp_path, max_bytes=1000))
        assert hub.ranges() == []
    assert error.reason is StartupReason.WEIGHTS_INVALID
    assert "DEPTH_SERVER_MAX_WEIGHTS_BYTES=1000" in str(error)


def test_hub_that_is_not_there_is_told(tmp_path: Path) -> None:
    with running(FakeHub(CONTENT)) as hub:
        pass
    error = failure(download(hub, tmp_path))
    assert error.reason is StartupReason.DOWNLOAD_FAILED
    assert "ConnectError" in str(error)


def test_offline_without_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="DEPTH_SERVER_WEIGHTS_OFFLINE") as caught:
        download(FakeHub(b"", endpoint="http://127.0.0.1:9"), tmp_path).cached()
    assert caught.value.reason is StartupReason.WEIGHTS_NOT_FOUND


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"etag": '"a"', "content-length": "3"}, "X-Repo-Commit"),
        ({"x-repo-commit": COMMIT, "content-length": "3"}, "ETag"),
        ({"x-repo-commit": COMMIT, "etag": '"a"', "content-length": "-3"}, "size"),
        ({"x-repo-commit": "../../etc", "etag": '"a"', "content-length": "3"}, "X-Repo-Commit"),
    ],
)
def test_metadata_that_is_not_the_hubs_is_refused(headers: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_metadata(headers)


@given(st.integers(1, 1000), st.one_of(st.none(), st.text(max_size=8)), st.floats(0, 1))
def test_pauses_are_bounded(failures: int, retry_after: str | None, jitter: float) -> None:
    assert 0 <= backoff_seconds(min(failures, 100), retry_after, jitter) <= MAX_BACKOFF_SECONDS


@pytest.mark.parametrize("content", [b"", b"two tokens", b"\xff\xfe", b"x" * 5000])
def test_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(StartupError, match="WEIGHTS_TOKEN_FILE"):
        read_token(path)


def test_token_is_read_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_secret\n")
    assert read_token(tmp_path / "token") == "hf_secret"
