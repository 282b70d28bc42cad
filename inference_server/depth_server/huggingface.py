"""Downloads one file of a repository of the Hugging Face Hub, once, resumably and with its digest checked.

What the Hub speaks (huggingface_hub `file_download.py`, `get_hf_file_metadata` and `http_get`): `HEAD
/{repository}/resolve/{revision}/{file}` tells by `X-Repo-Commit` the commit, by `X-Linked-Etag`, or `ETag`, the
identity, for a large file its sha256, and by `X-Linked-Size`, or `Content-Length`, the size. `GET` of the same address
redirects to a store that honours `Range`.

Layout of the cache: `<repository>/<commit>/<file>`, beside it `.partial` while it grows, and `refs/<revision>` with
the commit that a branch or tag stood for.
"""

import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpx

from depth_server.errors import StartupError, StartupReason
from depth_server.file_lock import locked

logger = logging.getLogger(__name__)

CHUNK_BYTES: Final = 1024 * 1024
"""Bytes written at a time."""

MAX_BACKOFF_SECONDS: Final = 30.0
"""Longest pause between two requests, also where the Hub asks for more by `Retry-After`."""

MAX_REDIRECTS: Final = 5
"""Redirects of one request."""

RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that a later request may not get."""

SHA256: Final = re.compile(r"[0-9a-f]{64}")
"""An ETag of this form is the file's digest (Git LFS)."""

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
"""A revision of this form cannot move."""

MAX_TOKEN_BYTES: Final = 4096
"""Longest token."""

PROGRESS_SECONDS: Final = 5.0
"""Between two reports of progress."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository.

    Attributes:
        endpoint: Address of the Hub, without a slash at its end.
        repository: `owner/name`.
        revision: Branch, tag or commit.
        file: Path in the repository.
    """

    endpoint: str
    repository: str
    revision: str
    file: str

    def url(self, revision: str | None = None) -> str:
        """Return the address that the Hub resolves."""
        chosen = quote(revision or self.revision, safe="")
        return f"{self.endpoint.rstrip('/')}/{self.repository}/resolve/{chosen}/{quote(self.file)}"


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What the Hub says of a file.

    Attributes:
        commit: What the revision stands for now.
        etag: Its identity.
        size: Bytes.
    """

    commit: str
    etag: str
    size: int

    @property
    def sha256(self) -> str:
        """Its digest, or empty where the Hub does not tell it."""
        return self.etag if SHA256.fullmatch(self.etag) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """Bounds of a download.

    Attributes:
        attempts: Requests in a row that may bring nothing.
        timeout_seconds: For everything.
        stall_seconds: Without a byte.
        max_bytes: Size of the file.
    """

    attempts: int
    timeout_seconds: float
    stall_seconds: float
    max_bytes: int


Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""Told the bytes that are there and the bytes that there will be."""


def parse_metadata(headers: Mapping[str, str]) -> FileMetadata:
    """Read the Hub's answer to `HEAD`.

    Raises:
        ValueError: A header is missing or wrong.
    """
    commit = headers.get("x-repo-commit", "")
    etag = (headers.get("x-linked-etag") or headers.get("etag") or "").removeprefix("W/").strip('"')
    size = headers.get("x-linked-size") or headers.get("content-length") or ""
    if not COMMIT.fullmatch(commit):
        message = f"the header X-Repo-Commit is {commit[:60]!r}, expected a commit"
        raise ValueError(message)
    if not etag:
        message = "there is neither X-Linked-Etag nor ETag"
        raise ValueError(message)
    if not size.isdecimal():
        message = f"the size is {size[:60]!r}, expected a number of bytes"
        raise ValueError(message)
    return FileMetadata(commit, etag, int(size))


def backoff_seconds(failures: int, retry_after: str | None, jitter: float) -> float:
    """Choose the pause before the next request.

    Args:
        failures: Requests in a row that brought nothing, at least 1.
        retry_after: The header, if there was one.
        jitter: 0 to 1.
    """
    if retry_after is not None and retry_after.isdecimal():
        return min(float(retry_after), MAX_BACKOFF_SECONDS)
    return min(2.0 ** (failures - 1), MAX_BACKOFF_SECONDS) * (0.5 + 0.5 * jitter)


def read_token(path: Path) -> str:
    """Read a token from a file.

    Raises:
        StartupError: `InvalidSettings`.
    """
    try:
        with path.open(encoding="ascii") as file:
            token = file.read(MAX_TOKEN_BYTES + 1).strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"DEPTH_SERVER_WEIGHTS_TOKEN_FILE={path} cannot be read: {error}"
        raise StartupError(StartupReason.INVALID_SETTINGS, message) from error
    if not token or len(token) > MAX_TOKEN_BYTES or not token.isprintable() or " " in token:
        message = f"DEPTH_SERVER_WEIGHTS_TOKEN_FILE={path} does not hold one token of at most {MAX_TOKEN_BYTES} bytes"
        raise StartupError(StartupReason.INVALID_SETTINGS, message)
    return token


class _BrokenDownloadError(Exception):
    """A request brought less than it should have; another one may bring the rest."""

    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HubDownload:
    """Brings one file into the cache.

    Args:
        file: What to bring.
        cache: Folder of downloads.
        token: Sent to the Hub only, never to where it redirects; empty sends none.
        limits: Bounds.
        on_progress: Told every few seconds.
        clock: Monotonic seconds.
        sleep: Waits between two requests.
    """

    def __init__(
        self,
        file: HubFile,
        *,
        cache: Path,
        token: str,
        limits: DownloadLimits,
        on_progress: Progress,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._file = file
        self._folder = cache / file.repository.replace("/", "--")
        self._token = token
        self._limits = limits
        self._on_progress = on_progress
        self._clock = clock
        self._sleep = sleep
        self._deadline = 0.0
        self._reported = 0.0
        self._furthest = 0

    def cached(self) -> Path:
        """Find the file without a connection.

        Raises:
            StartupError: `WeightsNotFound`.
        """
        path = self._path(self._remembered_commit())
        if path is None or not path.is_file():
            message = (
                f"{self._file.file} of {self._file.repository} at {self._file.revision} is not in the cache "
                f"{self._folder}, and DEPTH_SERVER_WEIGHTS_OFFLINE forbids to download it; run once online or fill "
                "the cache"
            )
            raise StartupError(StartupReason.WEIGHTS_NOT_FOUND, message)
        return path

    def fetch(self, sha256: str) -> Path:
        """Bring the file unless it is there.

        Args:
            sha256: Expected digest; empty relies on what the Hub says of its file.

        Returns:
            The file, complete and with the expected digest.

        Raises:
            StartupError: `WeightsNotFound`, `DigestMismatch`, `WeightsInvalid` or `DownloadFailed`.
        """
        self._deadline = self._clock() + self._limits.timeout_seconds
        remembered = self._path(self._file.revision if COMMIT.fullmatch(self._file.revision) else "")
        if remembered is not None and remembered.is_file():
            return remembered
        try:
            with self._client() as client:
                metadata = self._retrying(lambda: self._metadata(client))
                self._check_metadata(metadata, sha256)
                path = self._folder / metadata.commit / self._file.file
                with locked(path, self._limits.timeout_seconds):
                    if not path.is_file():
                        self._download(client, metadata, path, sha256 or metadata.sha256)
            self._remember_commit(metadata.commit)
        except TimeoutError as error:
            raise StartupError(StartupReason.DOWNLOAD_FAILED, str(error)) from error
        except OSError as error:
            message = f"{self._folder} cannot be written: {error.strerror}; set DEPTH_SERVER_CACHE_FOLDER to a volume"
            raise StartupError(StartupReason.DOWNLOAD_FAILED, message) from error
        return path

    def _client(self) -> httpx.Client:
        timeout = httpx.Timeout(self._limits.stall_seconds)
        # Redirects are followed here, so that the token stays with the Hub.
        return httpx.Client(timeout=timeout, follow_redirects=False, headers={"accept-encoding": "identity"})

    def _headers(self, url: str) -> dict[str, str]:
        ours = urlsplit(self._file.endpoint)
        asked = urlsplit(url)
        if self._token and (asked.scheme, asked.netloc) == (ours.scheme, ours.netloc):
            return {"authorization": f"Bearer {self._token}"}
        return {}

    def _metadata(self, client: httpx.Client) -> FileMetadata:
        url = self._file.url()
        for _ in range(MAX_REDIRECTS):
            response = client.head(url, headers=self._headers(url))
            location = response.headers.get("location", "")
            # A redirect inside the Hub means that the repository was renamed; any other leads to the store, and then
            # this very answer tells all.
            if response.is_redirect and "x-repo-commit" not in response.headers and location:
                url = urljoin(url, location)
                continue
            self._check_status(response)
            try:
                return parse_metadata(response.headers)
            except ValueError as error:
                message = f"{url} is not answered as the Hub does: {error}"
                raise StartupError(StartupReason.DOWNLOAD_FAILED, message) from error
        message = f"{self._file.url()} redirects more than {MAX_REDIRECTS} times"
        raise StartupError(StartupReason.DOWNLOAD_FAILED, message)

    def _check_metadata(self, metadata: FileMetadata, sha256: str) -> None:
        if metadata.size > self._limits.max_bytes:
            message = (
                f"{self._file.url()} has {metadata.size} bytes, more than "
                f"DEPTH_SERVER_MAX_WEIGHTS_BYTES={self._limits.max_bytes}"
            )
            raise StartupError(StartupReason.WEIGHTS_INVALID, message)
        if sha256 and metadata.sha256 and metadata.sha256 != sha256:
            message = f"{self._file.url()} has the sha256 {metadata.sha256}, expected {sha256}; nothing was downloaded"
            raise StartupError(StartupReason.DIGEST_MISMATCH, message)

    def _download(self, client: httpx.Client, metadata: FileMetadata, path: Path, sha256: str) -> None:
        """Bring the bytes that are missing, check all, and only then give the file its name."""
        tag = hashlib.sha256(metadata.etag.encode()).hexdigest()[:16]
        partial = path.with_name(f".{path.name}.{tag}.partial")
        self._retrying(lambda: self._append(client, metadata, partial))
        self._on_progress(metadata.size, metadata.size)
        if sha256:
            with partial.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != sha256:
                partial.unlink()
                message = f"{self._file.url()} was received with the sha256 {digest}, expected {sha256}; it was removed"
                raise StartupError(StartupReason.DIGEST_MISMATCH, message)
        partial.replace(path)

    def _append(self, client: httpx.Client, metadata: FileMetadata, partial: Path) -> None:
        """Ask for what is missing and append what comes.

        Raises:
            _BrokenDownloadError: Not everything came.
        """
        have = partial.stat().st_size if partial.exists() else 0
        if have > metadata.size:
            partial.unlink()
            have = 0
        if have == metadata.size:
            partial.touch()
            return
        url = self._file.url(metadata.commit)
        for _ in range(MAX_REDIRECTS):
            headers = self._headers(url) | ({"range": f"bytes={have}-"} if have else {})
            with client.stream("GET", url, headers=headers) as response:
                location = response.headers.get("location", "")
                if response.is_redirect and location:
                    url = urljoin(url, location)
                    continue
                if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    partial.unlink(missing_ok=True)
                self._check_status(response)
                self._receive(response, metadata, partial, have)
                return
        message = f"{self._file.url()} redirects more than {MAX_REDIRECTS} times"
        raise StartupError(StartupReason.DOWNLOAD_FAILED, message)

    def _receive(self, response: httpx.Response, metadata: FileMetadata, partial: Path, have: int) -> None:
        resumes = response.status_code == httpx.codes.PARTIAL_CONTENT
        if resumes and not response.headers.get("content-range", "").startswith(f"bytes {have}-"):
            partial.unlink(missing_ok=True)
            message = f"the range {response.headers.get('content-range')!r} came, bytes from {have} on were asked for"
            raise _BrokenDownloadError(message)
        with partial.open("ab" if resumes else "wb") as file:
            received = have if resumes else 0
            for chunk in response.iter_bytes(CHUNK_BYTES):
                received += len(chunk)
                if received > metadata.size:
                    message = f"more than the announced {metadata.size} bytes came"
                    raise _BrokenDownloadError(message)
                file.write(chunk)
                self._furthest = max(self._furthest, received)
                self._report(received, metadata.size)
                self._check_deadline()
        if received < metadata.size:
            message = f"{received} of {metadata.size} bytes came"
            raise _BrokenDownloadError(message)

    def _retrying(self, request: Callable[[], Result]) -> Result:
        """Repeat a request until it succeeds, or until too many in a row brought nothing."""
        failures, furthest = 0, self._furthest
        while True:
            try:
                return request()
            except (httpx.TransportError, _BrokenDownloadError) as error:
                failures = 1 if self._furthest > furthest else failures + 1
                furthest = self._furthest
                reason = f"{type(error).__name__}: {error}" if isinstance(error, httpx.TransportError) else str(error)
                if failures >= self._limits.attempts:
                    message = (
                        f"{self._file.url()}: {failures} requests in a row brought nothing, the last: {reason}; "
                        "what was received is kept, and the next start goes on from there"
                    )
                    raise StartupError(StartupReason.DOWNLOAD_FAILED, message) from error
                retry_after = error.retry_after if isinstance(error, _BrokenDownloadError) else None
                pause = backoff_seconds(failures, retry_after, random.random())  # noqa: S311 spreads replicas, no secret
                logger.warning("%s: %s; again in %.1f s", self._file.url(), reason, pause)
                self._sleep(pause)
                self._check_deadline()

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status < httpx.codes.BAD_REQUEST:
            return
        if status in RETRIED_STATUSES or status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            message = f"HTTP {status}"
            raise _BrokenDownloadError(message, response.headers.get("retry-after"))
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            remedy = (
                "the token of DEPTH_SERVER_WEIGHTS_TOKEN_FILE gives no access"
                if self._token
                else "it does not exist or needs a token in DEPTH_SERVER_WEIGHTS_TOKEN_FILE"
            )
            reason = StartupReason.DOWNLOAD_FAILED
        elif status == httpx.codes.NOT_FOUND:
            remedy = "correct DEPTH_SERVER_WEIGHTS_REPOSITORY, _REVISION or _FILE"
            reason = StartupReason.WEIGHTS_NOT_FOUND
        else:
            remedy, reason = "the Hub refuses the request", StartupReason.DOWNLOAD_FAILED
        raise StartupError(reason, f"{self._file.url()} is answered with HTTP {status}: {remedy}")

    def _check_deadline(self) -> None:
        if self._clock() > self._deadline:
            message = (
                f"{self._file.url()} was not downloaded within "
                f"DEPTH_SERVER_DOWNLOAD_TIMEOUT_SECONDS={self._limits.timeout_seconds:g}; the next start goes on"
            )
            raise TimeoutError(message)

    def _report(self, received: int, size: int) -> None:
        now = self._clock()
        if now - self._reported >= PROGRESS_SECONDS:
            self._reported = now
            self._on_progress(received, size)

    def _path(self, commit: str) -> Path | None:
        return self._folder / commit / self._file.file if commit else None

    def _remembered_commit(self) -> str:
        if COMMIT.fullmatch(self._file.revision):
            return self._file.revision
        try:
            commit = (self._folder / "refs" / self._file.revision).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""
        return commit if COMMIT.fullmatch(commit) else ""

    def _remember_commit(self, commit: str) -> None:
        path = self._folder / "refs" / self._file.revision
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit + "\n", encoding="ascii")
