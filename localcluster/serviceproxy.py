"""Makes Services reachable: listens at every cluster address and forwards to ready endpoints.

What kube-proxy does with packet filters is done here with TCP connections; UDP and session affinity are not offered.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localcluster import forward
from localcluster.client import ApiClient, api_path, core
from localcluster.informer import Change, Informer
from localcluster.network import ClusterNetwork, reach
from localcluster.settings import API_PORT, PROXY_CONNECT_SECONDS, JsonObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

log = logging.getLogger(__name__)

Address = tuple[str, int]
ServicePort = tuple[str, str, str]
"""Namespace, Service name, port name (empty for the only, unnamed port)."""

SERVICE_LABEL = "kubernetes.io/service-name"
"""Label by which an EndpointSlice names its Service."""


@dataclass(frozen=True)
class Listener:
    """An address to listen at, as the API names it, and the Service port it stands for."""

    address: Address
    port: ServicePort


def _tcp_ports(service: JsonObject) -> list[JsonObject]:
    return [port for port in service["spec"].get("ports", []) if port.get("protocol", "TCP") == "TCP"]


def listeners_of(service: JsonObject, node_address: str) -> list[Listener]:
    """Return where a Service is offered: its cluster address, and node ports at the node's address."""
    spec, metadata = service["spec"], service["metadata"]
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") in (None, "", "None"):
        return []
    found = []
    for port in _tcp_ports(service):
        key = (metadata["namespace"], metadata["name"], port.get("name", ""))
        found.append(Listener((spec["clusterIP"], port["port"]), key))
        if port.get("nodePort"):
            found.append(Listener((node_address, port["nodePort"]), key))
    return found


def _condition(endpoint: JsonObject, name: str, *, default: bool) -> bool:
    value = endpoint.get("conditions", {}).get(name)
    return default if value is None else bool(value)


def backends_of(slices: Iterable[JsonObject]) -> dict[ServicePort, list[Address]]:
    """Return the addresses behind every Service port.

    Ready endpoints count; where there is none, those that still serve while they terminate (as in kube-proxy,
    KEP-1669). Addresses are as the API names them.
    """
    ready: dict[ServicePort, list[Address]] = defaultdict(list)
    serving: dict[ServicePort, list[Address]] = defaultdict(list)
    for item in slices:
        metadata = item["metadata"]
        name = metadata.get("labels", {}).get(SERVICE_LABEL)
        if name is None or item.get("addressType") != "IPv4":
            continue
        for port in item.get("ports") or []:
            if port.get("protocol", "TCP") != "TCP" or port.get("port") is None:
                continue
            key = (metadata["namespace"], name, port.get("name") or "")
            for endpoint in item.get("endpoints") or []:
                addresses = [(address, int(port["port"])) for address in endpoint["addresses"]]
                if _condition(endpoint, "ready", default=True):
                    ready[key] += addresses
                elif _condition(endpoint, "serving", default=False):
                    serving[key] += addresses
    return {key: sorted(set(ready[key] or serving[key])) for key in ready.keys() | serving.keys()}


class Balancer:
    """Orders the backends of one connection: fewest open connections first, then the longest unused."""

    def __init__(self) -> None:
        self._open: dict[Address, int] = defaultdict(int)
        self._last_used: dict[Address, int] = defaultdict(int)
        self._clock = 0

    def order(self, backends: Iterable[Address]) -> list[Address]:
        """Return the backends in the order in which they are to be tried."""
        return sorted(backends, key=lambda backend: (self._open.get(backend, 0), self._last_used.get(backend, 0)))

    def opened(self, backend: Address) -> None:
        """Note a connection to a backend."""
        self._clock += 1
        self._open[backend] += 1
        self._last_used[backend] = self._clock

    def closed(self, backend: Address) -> None:
        """Note the end of a connection; a backend without connections is kept only for its turn."""
        self._open[backend] -= 1
        if self._open[backend] <= 0:
            del self._open[backend]

    def retain(self, backends: set[Address]) -> None:
        """Forget backends that are gone and have no connection."""
        for backend in [backend for backend in self._last_used if backend not in backends | self._open.keys()]:
            del self._last_used[backend]


async def _dial(address: Address) -> forward.Connection | None:
    try:
        async with asyncio.timeout(PROXY_CONNECT_SECONDS):
            return await asyncio.open_connection(*address)
    except (OSError, TimeoutError):
        return None


class ServiceProxy:
    """Follows Services and EndpointSlices and keeps a listener per Service port."""

    def __init__(self, client: ApiClient, network: ClusterNetwork) -> None:
        self._network = network
        self._servers: dict[Address, asyncio.Server] = {}
        self._ports: dict[Address, ServicePort] = {}
        self._backends: dict[ServicePort, list[Address]] = {}
        self._balancer = Balancer()
        self._changed = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._services = Informer(client, core("services"), self._wake)
        self._slices = Informer(client, api_path("discovery.k8s.io/v1", "endpointslices"), self._wake)

    def _wake(self, change: Change, item: JsonObject) -> None:
        del change, item
        self._changed.set()

    @property
    def services(self) -> Mapping[tuple[str, str], JsonObject]:
        """Services as last seen, by namespace and name."""
        return self._services.items

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._services.run(), name="services")
            group.create_task(self._slices.run(), name="endpointslices")
            try:
                await self._services.synced.wait()
                await self._slices.synced.wait()
                while True:
                    await self._changed.wait()
                    self._changed.clear()
                    await self._reconcile()
            finally:
                await self._close()

    async def _close(self) -> None:
        for server in self._servers.values():
            server.close()
        for task in list(self._connections):
            task.cancel()

    async def _reconcile(self) -> None:
        api_server = (("default", "kubernetes", "https"), [(self._network.node_loopback, API_PORT)])
        self._backends = {**backends_of(self._slices.items.values()), api_server[0]: api_server[1]}
        self._balancer.retain({backend for backends in self._backends.values() for backend in backends})
        wanted: dict[Address, ServicePort] = {}
        for service in self._services.items.values():
            for listener in listeners_of(service, self._network.node_address):
                wanted[reach(*listener.address)] = listener.port
        for address in self._servers.keys() - wanted.keys():
            self._servers.pop(address).close()
        self._ports = wanted
        for address in wanted.keys() - self._servers.keys():
            await self._listen(address)

    async def _listen(self, address: Address) -> None:
        try:
            self._servers[address] = await asyncio.start_server(self._accept, *address, backlog=1024)
        except OSError as error:
            reason = "the address is in use" if error.errno == errno.EADDRINUSE else str(error)
            log.warning("Service %s: cannot listen at %s:%d: %s", "/".join(self._ports[address]), *address, reason)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        address: Address = writer.get_extra_info("sockname")[:2]
        for backend in self._balancer.order(self._backends.get(self._ports.get(address, ("", "", "")), ())):
            # Counted before the dial, so that connections that come at the same moment are spread.
            self._balancer.opened(backend)
            try:
                onward = await _dial(reach(*backend))
                if onward is not None:
                    await forward.join((reader, writer), onward)
                    return
            finally:
                self._balancer.closed(backend)
        # Nobody is there: a reset is what a client of a Service without endpoints sees on a real cluster.
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
