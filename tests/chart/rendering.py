"""Renders the chart with the real helm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from localcluster import binaries

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "depth-operator"
RELEASE = "depth-operator"
NAMESPACE = "depth-system"

Manifest = dict[str, Any]


def find_helm() -> Path | None:
    """helm from KUBEBUILDER_ASSETS, PATH or the cache of the local cluster; nothing is built here."""
    names = ["helm"]
    build = binaries.control_plane_build(Path(binaries.__file__).parent)
    found = (
        binaries.in_folder(Path(os.environ.get("KUBEBUILDER_ASSETS", "/nowhere")), names)
        or binaries.on_path(names, os.environ.get("PATH", ""))
        or binaries.in_folder(build.folder(binaries.cache_dir(os.environ)), names)
    )
    return found["helm"] if found else None


HELM = find_helm()


def helm(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run helm without any cluster and with its own folders."""
    homes = {name: str(folder / name) for name in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME")}
    environment = {"PATH": os.environ.get("PATH", ""), "KUBECONFIG": str(folder / "none"), **homes}
    return subprocess.run(
        [str(HELM), *arguments], capture_output=True, text=True, check=False, env=environment, timeout=60
    )


def render(folder: Path, *arguments: str, namespace: str = NAMESPACE) -> list[Manifest]:
    """All objects of the chart."""
    result = helm("template", RELEASE, str(CHART), "--namespace", namespace, *arguments, folder=folder)
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """One object."""
    found = [item for item in manifests if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, [(item["kind"], item["metadata"]["name"]) for item in manifests]
    return found[0]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    """All objects of some kinds."""
    return [item for item in manifests if item["kind"] in kinds]
