"""The two rules of the local cluster's network, and who has which address.

Rule 1: the address 10.a.b.c is reached at 127.a.b.c.
Rule 2: a port below 1024 is reached at port + 10000, because only root may bind low ports.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localcluster.errors import LocalClusterError
from localcluster.settings import MAX_CLUSTERS

if TYPE_CHECKING:
    from collections.abc import Iterable

FIRST_UNPRIVILEGED_PORT = 1024
LOW_PORT_OFFSET = 10000


def reach_host(host: str) -> str:
    """Return the address at which `host` is reached (rule 1); anything but a 10.x IPv4 address is unchanged."""
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return host
    octets = address.packed
    if octets[0] != 10:
        return host
    return str(ipaddress.IPv4Address(bytes([127]) + octets[1:]))


def reach_port(port: int) -> int:
    """Return the port at which `port` is reached (rule 2)."""
    return port + LOW_PORT_OFFSET if 0 < port < FIRST_UNPRIVILEGED_PORT else port


def reach(host: str, port: int) -> tuple[str, int]:
    """Return where to dial or bind for an address that the API names.

    Low ports are moved only for cluster addresses: `127.0.0.1:443` stays what it is.
    """
    mapped = reach_host(host)
    return (mapped, reach_port(port)) if mapped != host else (host, port)


@dataclass(frozen=True)
class ClusterNetwork:
    """Addresses of cluster number `number` (0 to 7), as they stand in API objects."""

    number: int

    def __post_init__(self) -> None:
        """Refuse a number that has no addresses."""
        if not 0 <= self.number < MAX_CLUSTERS:
            msg = f"cluster number {self.number} is out of range: 0 to {MAX_CLUSTERS - 1}"
            raise LocalClusterError(msg)

    @property
    def node(self) -> ipaddress.IPv4Network:
        """Network of the node's address."""
        return ipaddress.IPv4Network(f"10.{1 + self.number}.0.0/16")

    @property
    def services(self) -> ipaddress.IPv4Network:
        """Network of Service cluster addresses."""
        return ipaddress.IPv4Network(f"10.{96 + self.number}.0.0/16")

    @property
    def pods(self) -> ipaddress.IPv4Network:
        """Network of pod addresses."""
        return ipaddress.IPv4Network(f"10.{244 - self.number}.0.0/16")

    @property
    def node_address(self) -> str:
        """The node's InternalIP."""
        return str(self.node[1])

    @property
    def node_loopback(self) -> str:
        """Where the node's address is reached; the control plane listens here too."""
        return reach_host(self.node_address)

    @property
    def kubernetes_service(self) -> str:
        """Cluster address of the Service `kubernetes`: the first of the range."""
        return str(self.services[1])

    def contains(self, address: str) -> bool:
        """Say whether an IPv4 literal is an address of this cluster."""
        try:
            parsed = ipaddress.IPv4Address(address)
        except ValueError:
            return False
        return any(parsed in network for network in (self.node, self.services, self.pods))


class PodAddressPool:
    """Hands out pod addresses; an address is not used again before the range has been walked through."""

    def __init__(self, network: ClusterNetwork, used: Iterable[str] = ()) -> None:
        self._range = network.pods
        self._used = set(used)
        self._next = 1

    def reserve(self, address: str) -> None:
        """Mark an address as taken, for pods that keep theirs over a restart of the node."""
        self._used.add(address)

    def acquire(self) -> str:
        """Return a free address.

        Raises:
            LocalClusterError: If every address of the range is taken.
        """
        size = self._range.num_addresses - 2
        for _ in range(size):
            address = str(self._range[self._next])
            self._next = self._next % size + 1
            if address not in self._used:
                self._used.add(address)
                return address
        msg = f"all {size} pod addresses of {self._range} are taken"
        raise LocalClusterError(msg)

    def release(self, address: str) -> None:
        """Give an address back."""
        self._used.discard(address)
