"""One local cluster with Prometheus and the operator installed from its chart, for the tests of this folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo import path, picture
from demo.commands import Commands
from localcluster.testing import cluster_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/depth-operator"


def localcluster(*arguments: str) -> None:
    """Runs the command that a user would type."""
    subprocess.run([sys.executable, "-m", "localcluster", *arguments], cwd=ROOT, check=True)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """kubectl and helm against a cluster of this session's own."""
    state = tmp_path_factory.mktemp("cluster")
    localcluster("up", "--state-dir", str(state), "--prometheus")
    try:
        programs = cluster_programs(state)
        yield Commands(programs.kubectl, programs.helm, programs.kubeconfig)
    finally:
        localcluster("down", "--state-dir", str(state))


@pytest.fixture(scope="session")
def installed(commands: Commands) -> Commands:
    """The same with the operator installed and the demo weights in the volume."""
    path.install_operator(commands, CHART, CHART / "ci/local-values.yaml")
    path.make_weights(commands, ROOT / "examples/weights.yaml")
    return commands


@pytest.fixture(scope="session")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real photograph as JPEG."""
    file = tmp_path_factory.mktemp("photograph") / "photo.jpg"
    picture.write_photograph(file)
    return file.read_bytes()
