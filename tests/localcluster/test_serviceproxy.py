from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from localcluster import forward
from localcluster.serviceproxy import Balancer, Listener, backends_of, listeners_of


def endpoint_slice(*endpoints: dict[str, Any], port: int = 8000, name: str = "web") -> dict[str, Any]:
    return {
        "metadata": {"namespace": "n", "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": list(endpoints),
    }


def endpoint(address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions}


KEY = ("n", "web", "http")


def test_ready_endpoints_of_all_slices_are_the_backends() -> None:
    slices = [
        endpoint_slice(endpoint("10.244.0.2", ready=True), endpoint("10.244.0.3", ready=False)),
        endpoint_slice(endpoint("10.244.0.1")),
    ]
    assert backends_of(slices) == {KEY: [("10.244.0.1", 8000), ("10.244.0.2", 8000)]}


def test_terminating_endpoints_serve_where_none_is_ready() -> None:
    leaving = endpoint("10.244.0.2", ready=False, serving=True, terminating=True)
    assert backends_of([endpoint_slice(leaving)]) == {KEY: [("10.244.0.2", 8000)]}
    assert backends_of([endpoint_slice(leaving, endpoint("10.244.0.1", ready=True))]) == {KEY: [("10.244.0.1", 8000)]}


def test_slice_without_a_service_is_nobodys() -> None:
    orphan = endpoint_slice(endpoint("10.244.0.1"))
    orphan["metadata"]["labels"] = {}
    assert backends_of([orphan]) == {}


def service(**spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    return {"metadata": {"namespace": "n", "name": "web"}, "spec": {"clusterIP": "10.96.0.5", "ports": ports, **spec}}


def test_tcp_ports_are_offered_at_the_cluster_address() -> None:
    assert listeners_of(service(), "10.1.0.1") == [Listener(("10.96.0.5", 80), KEY)]


def test_node_port_is_offered_at_the_node() -> None:
    ports = [{"name": "http", "port": 80, "nodePort": 30080}]
    assert Listener(("10.1.0.1", 30080), KEY) in listeners_of(service(ports=ports), "10.1.0.1")


def test_service_without_a_cluster_address_is_not_offered() -> None:
    assert listeners_of(service(clusterIP="None"), "10.1.0.1") == []
    assert listeners_of(service(type="ExternalName", clusterIP=""), "10.1.0.1") == []


@given(st.lists(st.booleans(), max_size=80))
def test_open_connections_differ_by_at_most_one(closings: list[bool]) -> None:
    backends = [("10.244.0.1", 1), ("10.244.0.2", 1), ("10.244.0.3", 1)]
    balancer, opened = Balancer(), Counter[tuple[str, int]]()
    for closing in closings:
        busiest = max(backends, key=lambda backend: opened[backend])
        if closing and opened[busiest]:
            balancer.closed(busiest)
            opened[busiest] -= 1
        else:
            chosen = balancer.order(backends)[0]
            balancer.opened(chosen)
            opened[chosen] += 1
        counts = [opened[backend] for backend in backends]
        assert max(counts) - min(counts) <= 1


def test_idle_backends_take_turns() -> None:
    backends = [("10.244.0.1", 1), ("10.244.0.2", 1), ("10.244.0.3", 1)]
    balancer, order = Balancer(), []
    for _ in range(6):
        chosen = balancer.order(backends)[0]
        balancer.opened(chosen)
        balancer.closed(chosen)
        order.append(chosen)
    assert order == backends * 2


async def test_half_closed_connection_still_carries_the_answer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()
        writer.write(question[::-1])
        await forward.close(writer)

    behind = await asyncio.start_server(answer, "127.0.0.1", 0)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection(*behind.sockets[0].getsockname())
        await forward.join((reader, writer), onward)

    front = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with behind, front:
        reader, writer = await asyncio.open_connection(*front.sockets[0].getsockname())
        writer.write(b"question" * 100_000)
        writer.write_eof()
        assert await reader.read() == (b"question" * 100_000)[::-1]
        await forward.close(writer)
