"""A closed-loop load bounded in time: some clients, each with one request in flight, until told to stop."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

import httpx

if TYPE_CHECKING:
    from types import TracebackType

REQUEST_TIMEOUT_SECONDS = 60.0
PAUSE_AFTER_REFUSAL_SECONDS = 0.2


class Load:
    """Posts ``image`` to ``url`` from ``clients`` threads while the context is open, for ``max_seconds`` at most."""

    def __init__(self, url: str, image: bytes, *, clients: int, max_seconds: float) -> None:
        self._url, self._image = url, image
        self._max_seconds = max_seconds
        self._deadline = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]
        self.answers: Counter[int] = Counter()
        """Answers by status code; 0 is no answer."""

    def __enter__(self) -> Self:
        self._deadline = time.monotonic() + self._max_seconds
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_TIMEOUT_SECONDS)

    def _client(self) -> None:
        with httpx.Client(timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False) as client:
            while not self._stop.is_set() and time.monotonic() < self._deadline:
                try:
                    status = client.post(
                        self._url, files={"file": ("photo.jpg", self._image, "image/jpeg")}
                    ).status_code
                except httpx.HTTPError:
                    status = 0
                with self._lock:
                    self.answers[status] += 1
                if status != httpx.codes.OK:
                    self._stop.wait(PAUSE_AFTER_REFUSAL_SECONDS)
