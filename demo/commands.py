"""The two programs that a user would type: kubectl and helm, against the local cluster only."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from demo.stages import DemoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMMAND_TIMEOUT_SECONDS = 180.0
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Commands:
    """kubectl and helm with the local cluster's kubeconfig; the user's own contexts are never read."""

    kubectl_path: Path
    helm_path: Path
    kubeconfig: Path

    def kubectl(self, *arguments: str) -> str:
        """Runs kubectl and returns what it printed; an error carries its message."""
        return self._run([str(self.kubectl_path), *arguments])

    def helm(self, *arguments: str) -> str:
        """Runs helm and returns what it printed; an error carries its message."""
        return self._run([str(self.helm_path), *arguments])

    def get(self, *arguments: str) -> dict[str, Any] | None:
        """One object as a dictionary, or None when it does not exist."""
        text = self.kubectl("get", *arguments, "--ignore-not-found", "--output=json")
        found: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return found

    def _run(self, command: list[str]) -> str:
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        try:
            done = subprocess.run(
                command, env=environment, check=False, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"`{' '.join(command)}` did not end within {COMMAND_TIMEOUT_SECONDS:.0f} s") from error
        if done.returncode:
            raise DemoError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def wait_until(
    condition: Callable[[], bool], *, what: str, timeout_seconds: float, explain: Callable[[], str] | None = None
) -> None:
    """Asks ``condition`` until it holds; when it does not in time, the error says what was awaited and what is there.

    Raises:
        DemoError: ``timeout_seconds`` passed.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            seen = f"\n{explain()}" if explain else ""
            raise DemoError(f"{what} did not happen within {timeout_seconds:.0f} s{seen}")
        time.sleep(POLL_SECONDS)
