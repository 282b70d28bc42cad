"""What every pod of the node shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from localcluster.settings import BACKOFF_BASE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from localcluster.client import ApiClient
    from localcluster.network import ClusterNetwork, PodAddressPool
    from localcluster.node.events import EventRecorder
    from localcluster.node.images import ImageTable
    from localcluster.node.rewrite import ResolveService
    from localcluster.node.volumes import ObjectSource


@dataclass
class GpuPool:
    """GPU indices of the node and which of them are free."""

    capacity: int
    _taken: set[int] = field(default_factory=set)

    def acquire(self, count: int) -> tuple[int, ...]:
        """Take `count` indices; fewer if the scheduler was overruled (`spec.nodeName` set by hand)."""
        free = [index for index in range(self.capacity) if index not in self._taken][:count]
        self._taken.update(free)
        return tuple(free)

    def release(self, indices: tuple[int, ...]) -> None:
        """Give indices back."""
        self._taken.difference_update(indices)


@dataclass(frozen=True)
class NodeContext:
    """Everything a pod needs from its node.

    Attributes:
        pods: Folder below which every pod gets its own.
        pids: Folder of process records.
        environment: Environment of every container, before its own.
        real_gpus: CUDA devices of this machine.
        allocatable: The node's allocatable resources.
        forget: Called with a pod's uid when nothing is left of it.
    """

    client: ApiClient
    network: ClusterNetwork
    api_server: str
    pods: Path
    pids: Path
    addresses: PodAddressPool
    gpus: GpuPool
    images: ImageTable
    events: EventRecorder
    objects: ObjectSource
    resolve: ResolveService
    environment: dict[str, str]
    real_gpus: int
    allocatable: dict[str, str]
    forget: Callable[[str], None]
    backoff_base: float = BACKOFF_BASE_SECONDS
