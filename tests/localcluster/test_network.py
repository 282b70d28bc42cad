from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.errors import LocalClusterError
from localcluster.network import ClusterNetwork, PodAddressPool, reach, reach_host, reach_port

cluster_addresses = st.ip_addresses(v=4, network="10.0.0.0/8").map(str)
ports = st.integers(1, 65535)


@given(cluster_addresses, ports)
def test_cluster_address_is_reached_on_the_loopback_at_a_port_anyone_may_bind(address: str, port: int) -> None:
    host, number = reach(address, port)
    assert ipaddress.IPv4Address(host).is_loopback
    assert host.split(".")[1:] == address.split(".")[1:]
    assert number >= 1024
    assert number == port or port < 1024


@given(st.tuples(cluster_addresses, ports), st.tuples(cluster_addresses, ports))
def test_two_addresses_never_meet_unless_a_low_port_meets_its_own_substitute(
    first: tuple[str, int], second: tuple[str, int]
) -> None:
    if first != second and reach(*first) == reach(*second):
        assert first[0] == second[0]
        assert abs(first[1] - second[1]) == 10000


@given(cluster_addresses, ports)
def test_reaching_twice_is_reaching_once(address: str, port: int) -> None:
    once = reach(address, port)
    assert reach(*once) == once


@pytest.mark.parametrize("host", ["127.0.0.1", "192.168.1.1", "localhost", "10.1", "10.0.0.0.1", "::1", ""])
def test_other_hosts_stay_what_they_are(host: str) -> None:
    assert reach_host(host) == host
    assert reach(host, 443) == (host, 443)


@pytest.mark.parametrize(("port", "reached"), [(0, 0), (1, 10001), (80, 10080), (1023, 11023), (1024, 1024)])
def test_low_ports_move(port: int, reached: int) -> None:
    assert reach_port(port) == reached


def test_clusters_share_no_address() -> None:
    networks = [
        network
        for number in range(8)
        for network in (ClusterNetwork(number).node, ClusterNetwork(number).services, ClusterNetwork(number).pods)
    ]
    assert not any(a.overlaps(b) for i, a in enumerate(networks) for b in networks[:i])


def test_addresses_of_cluster_two_are_those_of_the_readme() -> None:
    network = ClusterNetwork(2)
    assert network.node_address == "10.3.0.1"
    assert network.node_loopback == "127.3.0.1"
    assert str(network.services) == "10.98.0.0/16"
    assert str(network.pods) == "10.242.0.0/16"
    assert network.kubernetes_service == "10.98.0.1"


@pytest.mark.parametrize("number", [-1, 8])
def test_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(LocalClusterError, match="0 to 7"):
        ClusterNetwork(number)


@given(st.lists(st.booleans(), max_size=60))
def test_pool_never_gives_an_address_twice(releases: list[bool]) -> None:
    pool = PodAddressPool(ClusterNetwork(0), used=["10.244.0.2"])
    held: list[str] = ["10.244.0.2"]
    for release in releases:
        if release and len(held) > 1:
            pool.release(held.pop())
        else:
            address = pool.acquire()
            assert address not in held
            assert ClusterNetwork(0).contains(address)
            held.append(address)


def test_released_address_rests_before_it_is_used_again() -> None:
    pool = PodAddressPool(ClusterNetwork(0))
    first = pool.acquire()
    pool.release(first)
    assert pool.acquire() != first


def test_exhausted_pool_says_so() -> None:
    network = ClusterNetwork(0)
    pool = PodAddressPool(network, used=(str(address) for address in network.pods))
    with pytest.raises(LocalClusterError, match=r"addresses of 10\.244\.0\.0/16 are taken"):
        pool.acquire()
