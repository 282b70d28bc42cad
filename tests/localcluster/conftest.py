from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from localcluster.client import core
from localcluster.testing import ClusterHandle, running_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACKOFF_BASE = "0.5"
"""Seconds; makes crash loops quick enough to watch."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHandle]:
    folder: Path = tmp_path_factory.mktemp("lc") / "state"
    program = folder.with_name("hello.sh")
    program.write_text("echo hello from an image\n")
    image = f"registry.example/hello:1=sh {program}"
    options = ["--prometheus", "--backoff-base", BACKOFF_BASE, "--image", image]
    with running_cluster(folder, options) as handle:
        yield handle


@pytest.fixture
def namespace(cluster: ClusterHandle) -> Iterator[str]:
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    cluster.wait_for("a service account", lambda: cluster.find(core("serviceaccounts", name, "default")))
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
