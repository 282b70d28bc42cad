"""A real control plane for the tests of this folder.

The cluster is one of its own, on a node without CPUs: pods are created and never run, so a test plays the kubelet by
writing a pod's status where it needs one.
"""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from localcluster.testing import running_cluster
from tests.apiserver.kubernetes_client import KubernetesClient, RefusedError, wait_until
from tests.apiserver.reconciling import Operator, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesClient]:
    """The administrator of a control plane that knows DepthServices."""
    state = tmp_path_factory.mktemp("control-plane")
    with (
        running_cluster(state, ["--cpus=0", "--gpus=0"]) as cluster,
        closing(KubernetesClient(cluster.kubeconfig)) as administrator,
    ):
        definition = yaml.safe_load((ROOT / "crds/depthservices.yaml").read_text())
        administrator.create("customresourcedefinitions", definition)
        wait_until(lambda: is_served(administrator), what="DepthServices being served")
        yield administrator


def is_served(client: KubernetesClient) -> bool:
    try:
        client.list("depthservices", "")
    except RefusedError as error:
        if error.status in {404, 429}:  # 429: the storage of a new kind is being initialised
            return False
        raise
    return True


@pytest.fixture
def namespace(client: KubernetesClient) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    client.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    client.delete("namespaces", "", name)


@pytest.fixture
async def operator(client: KubernetesClient, namespace: str) -> AsyncIterator[Operator]:
    async with started(client, namespace) as running:
        yield running
