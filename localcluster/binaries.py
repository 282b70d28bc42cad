"""Which program comes from where: KUBEBUILDER_ASSETS, PATH, the cache, or a build from its Go module."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localcluster import golang
from localcluster.errors import LocalClusterError
from localcluster.settings import KUBERNETES_VERSION, MINIMUM_VERSIONS, PROMETHEUS_VERSION

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from localcluster.progress import Progress

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""Taken as one set from one place: mixed versions do not work together."""

COMMANDS = ("kubectl", "helm")
"""Taken each on its own; the built control plane holds them too."""


@dataclass(frozen=True)
class Build:
    """One Go module of this repository and how it is built.

    Attributes:
        name: Name of the binary and of its folder in the cache.
        module: Folder with go.mod, go.sum and perhaps main.go.
        package: What is built, as given to `go build`.
        flags: Flags of `go build`.
        programs: Names by which the binary is called.
    """

    name: str
    module: Path
    package: str
    flags: tuple[str, ...]
    programs: tuple[str, ...]

    def fingerprint(self) -> str:
        """Return a hash of everything that the binary is made from."""
        digest = hashlib.sha256("\0".join((self.package, *self.flags)).encode())
        for name in ("go.mod", "go.sum", "main.go"):
            path = self.module / name
            digest.update(name.encode() + b"\0" + (path.read_bytes() if path.exists() else b"") + b"\0")
        return digest.hexdigest()[:16]

    def folder(self, cache: Path) -> Path:
        """Return where the cache holds the result."""
        return cache / "bin" / f"{self.name}-{self.fingerprint()}"


def _version_flags() -> str:
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    package = "k8s.io/component-base/version"
    values = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s -w", *(f"-X {package}.{name}={value}" for name, value in values.items())])


def control_plane_build(root: Path) -> Build:
    """Return the build of etcd, the Kubernetes servers, kubectl and helm as one binary."""
    flags = ("-trimpath", "-ldflags", _version_flags())
    return Build("controlplane", root / "controlplane", ".", flags, (*CONTROL_PLANE, *COMMANDS))


def prometheus_build(root: Path) -> Build:
    """Return the build of Prometheus with Kubernetes service discovery only and without the web page's assets."""
    version = f"-s -w -X github.com/prometheus/common/version.Version={PROMETHEUS_VERSION}"
    flags = ("-trimpath", "-tags", "remove_all_sd,enable_kubernetes_sd", "-ldflags", version)
    package = "github.com/prometheus/prometheus/cmd/prometheus"
    return Build("prometheus", root / "prometheus", package, flags, ("prometheus",))


def cache_dir(environment: Mapping[str, str]) -> Path:
    """Return the cache folder: `depth-serving` below XDG_CACHE_HOME or ~/.cache."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "depth-serving"


def in_folder(folder: Path, names: Sequence[str]) -> dict[str, Path] | None:
    """Return the programs if all of them are in `folder`."""
    found = {name: folder / name for name in names}
    return found if all(os.access(path, os.X_OK) and path.is_file() for path in found.values()) else None


def on_path(names: Sequence[str], path: str) -> dict[str, Path] | None:
    """Return the programs if all of them are on PATH, those of one set from the same folder."""
    for folder in path.split(os.pathsep):
        found = in_folder(Path(folder), names) if folder else None
        if found is not None:
            return found
    return None


VERSION_ARGUMENTS = {
    "etcd": ("--version",),
    "kube-apiserver": ("--version",),
    "kubectl": ("version", "--client"),
    "helm": ("version", "--short"),
    "prometheus": ("--version",),
}
"""How each program that has a minimum version tells its own."""


def version_in(output: str) -> tuple[int, ...] | None:
    """Return the first version in what a program says of itself, as numbers; None if there is none."""
    match = re.search(r"\bv?(\d+(?:\.\d+)+)", output)
    return tuple(int(part) for part in match.group(1).split(".")) if match else None


@contextlib.asynccontextmanager
async def _lock(path: Path) -> AsyncIterator[None]:
    with path.open("w") as file:
        # Another process may hold it for minutes while it builds the same: wait in a thread.
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield


def _publish(build: Build, result: Path, target: Path) -> None:
    for name in build.programs:
        if name != build.name:
            (result / name).symlink_to(build.name)
    if target.exists():
        shutil.rmtree(target)
    result.rename(target)


class Binaries:
    """Finds programs and builds those that are nowhere."""

    def __init__(self, root: Path, environment: Mapping[str, str], progress: Progress, *, go_wheel: bool) -> None:
        self._control_plane = control_plane_build(root)
        self._prometheus = prometheus_build(root)
        self._environment = environment
        self._cache = cache_dir(environment)
        self._progress = progress
        self._go_wheel = go_wheel

    async def locate(self, *, prometheus: bool) -> dict[str, Path]:
        """Return every program by name; builds what is found nowhere, both builds side by side.

        Raises:
            GoMissingError: If something must be built and there is no Go.
            LocalClusterError: If a build fails.
        """
        sets = [CONTROL_PLANE, *((name,) for name in COMMANDS), *([("prometheus",)] if prometheus else [])]
        found: dict[str, Path] = {}
        for names in sets:
            candidate = self._find(names)
            if candidate is not None and await self._is_recent_enough(candidate):
                found.update(candidate)
        wanted = [self._control_plane, *([self._prometheus] if prometheus else [])]
        missing = [build for build in wanted if any(name not in found for name in build.programs)]
        builds = []
        for build in missing:
            cached = self._cached(build)
            if cached is None:
                builds.append(build)
            else:
                found = {**cached, **found}
        for built in await self._build_all(builds) if builds else []:
            found = {**built, **found}
        return found

    def _find(self, names: Sequence[str]) -> dict[str, Path] | None:
        assets = self._environment.get("KUBEBUILDER_ASSETS")
        found = in_folder(Path(assets), names) if assets else None
        return found or on_path(names, self._environment.get("PATH", ""))

    async def _is_recent_enough(self, programs: Mapping[str, Path]) -> bool:
        """Ask every program that has a minimum version for its own; one that is too old spoils its set, aloud."""
        for name, path in programs.items():
            minimum = MINIMUM_VERSIONS.get(name)
            if minimum is None:
                continue
            _, output = await golang.run(str(path), *VERSION_ARGUMENTS[name])
            version = version_in(output)
            if version is None or version < minimum:
                told = ".".join(map(str, version)) if version else "an unknown version"
                needed = ".".join(map(str, minimum))
                self._progress.say(f"{path} is {told} and not used: {name} {needed} or newer is needed")
                return False
        return True

    def _cached(self, build: Build) -> dict[str, Path] | None:
        return in_folder(build.folder(self._cache), build.programs)

    async def _build_all(self, builds: Sequence[Build]) -> list[dict[str, Path]]:
        go = await golang.find(builds[0].module, self._cache, wheel=self._go_wheel)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._build(build, go)) for build in builds]
        return [task.result() for task in tasks]

    async def _build(self, build: Build, go: str) -> dict[str, Path]:
        target = build.folder(self._cache)
        target.parent.mkdir(parents=True, exist_ok=True)
        async with _lock(target.with_name(f".{target.name}.lock")):
            if self._cached(build) is None:
                await self._compile(build, go, target)
        return {name: target / name for name in build.programs}

    async def _compile(self, build: Build, go: str, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{build.name}-") as folder:
            result = Path(folder) / "result"
            result.mkdir(mode=0o755)
            command = (go, "build", "-v", *build.flags, "-o", str(result / build.name), build.package)
            environment = {**self._environment, "CGO_ENABLED": "0"}
            started = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=build.module,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                output = await self._follow(build, process)
                code = await process.wait()
            finally:
                if process.returncode is None:
                    process.terminate()
                    await process.wait()
                self._progress.finish(build.name)
            if code != 0:
                lines = "\n".join(f"    {line}" for line in output[-20:])
                msg = f"the build of {build.name} in {build.module} failed with {code}:\n{lines}"
                raise LocalClusterError(msg)
            _publish(build, result, target)
            self._progress.say(f"built {build.name} in {time.monotonic() - started:.0f} s: {target}")

    async def _follow(self, build: Build, process: asyncio.subprocess.Process) -> list[str]:
        lines: list[str] = []
        compiled = 0
        if process.stderr is None:
            return lines
        self._progress.start(build.name, "loading modules")
        async for raw in process.stderr:
            line = raw.decode(errors="replace").rstrip()
            lines = [*lines[-200:], line]
            if line.startswith("go: downloading"):
                self._progress.update(build.name, line.removeprefix("go: "))
            else:
                compiled += 1
                self._progress.update(build.name, f"{compiled} packages compiled, now {line}")
        return lines
