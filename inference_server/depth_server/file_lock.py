"""One process at a time works on a file of the cache; others that share the volume use what it leaves."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

LOCK_POLL_SECONDS: Final = 0.2
"""Between two looks at a lock that somebody else holds; `flock` knows no timeout."""


@contextlib.contextmanager
def locked(
    path: Path,
    timeout_seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the lock of a file for the time of the block; the system frees it if the process dies.

    Args:
        path: What is worked on; the lock is a file beside it, which stays.
        timeout_seconds: How long to wait for whoever holds it.
        clock: Monotonic seconds.
        sleep: Waits between two tries.

    Raises:
        TimeoutError: It was not freed in time.
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = clock() + timeout_seconds
        while not _try_lock(descriptor):
            if clock() >= deadline:
                message = f"{path} is worked on by another process since more than {timeout_seconds:g} s"
                raise TimeoutError(message)
            sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; what was written takes the place of `path` if the block succeeds, and is removed if not.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers choose the format by it.
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
