"""The operator is killed before and after every one of its writes, and the end is the same as without.

A reference run of the life of a DepthService (create, change, begin and end autoscaling, delete) is recorded through
`tests.fault_proxy`. It is then repeated with a kill on each side of each recorded write; the operator is started again
and every phase has to reach the recorded state.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import json
import re
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from localcluster import pki
from tests.apiserver.kubernetes_client import KubernetesClient, Object, decode, wait_until
from tests.apiserver.operator_process import OperatorProcess, grant, write_kubeconfig
from tests.fault_proxy import Fault, FaultProxy, Kind, When

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

NAME = "depth"
CHILDREN = ("deployments", "services", "horizontalpodautoscalers")
PHASE_SECONDS = 60.0
MAX_FAILURES = 2
"""Failures after which the rest is not tried."""

MIN_WRITES = {Kind.CHANGE: 8, Kind.REPORT: 6}
"""Changes: two children, the changed Deployment, the hand-over, the Deployment without a number, the autoscaler, its
deletion, the Deployment with a number. Reports: at least a status and mostly an Event in each phase."""

PHASES: list[tuple[str, dict[str, Any] | None]] = [
    ("create", {"replicas": 3}),
    ("change", {"replicas": 3, "runtime": {"inputSize": 392}}),
    ("begin autoscaling", {"autoscaling": {"minReplicas": 1, "maxReplicas": 5}, "runtime": {"inputSize": 392}}),
    ("end autoscaling", {"replicas": 2, "runtime": {"inputSize": 392}}),
    ("delete", None),
]

SAFE = "[bcdfghjklmnpqrstvwxz2456789]"
"""What Kubernetes makes generated names of (k8s.io/apimachinery/pkg/util/rand)."""

VOLATILE = frozenset(
    {
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "managedFields",
        "lastTransitionTime",
        "lastUpdateTime",
        "clusterIP",
        "clusterIPs",
        "namespace",
        "lastScaleTime",
        "depthserving.dev/applied-hash",  # of a manifest with a namespace and an owner's uid
    }
)


def normalised(value: Any) -> Any:
    """What is to be equal in all runs: no identities, no times, no generated names."""
    if isinstance(value, dict):
        return {key: normalised(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [normalised(item) for item in value]
    if isinstance(value, str):
        return re.sub(rf"test-[0-9a-f]{{8}}|depth-{SAFE}{{8,10}}(-{SAFE}{{5}})?", "*", value)
    return value


def replica_owners(deployment: Object) -> set[str]:
    """Which of the operator's managers own the number of replicas: the hand-over has to be complete."""
    entries = deployment["metadata"]["managedFields"]
    return {entry["manager"] for entry in entries if "f:replicas" in entry["fieldsV1"].get("f:spec", {})}


def state(client: KubernetesClient, namespace: str) -> Object:
    """The DepthService and its children. The status of a child is its controller's affair, not the operator's."""
    service = client.get("depthservices", namespace, NAME)
    seen: Object = {"depthservice": normalised(service), "children": {}}
    for plural in CHILDREN:
        for child in client.list(plural, namespace):
            kept = {key: value for key, value in child.items() if key != "status"}
            metadata = {key: value for key, value in child["metadata"].items() if key != "generation"}
            seen["children"][f"{plural}/{child['metadata']['name']}"] = normalised({**kept, "metadata": metadata})
            if plural == "deployments":
                seen["replica owners"] = sorted(replica_owners(child))
    return seen


def is_settled(client: KubernetesClient, namespace: str, phase: str) -> bool:
    """Whether the reference run has arrived: the quota's refusal and the autoscaler's verdict have been repeated."""
    service = client.get("depthservices", namespace, NAME)
    if phase == "delete":
        return service is None and not any(client.list(plural, namespace) for plural in CHILDREN)
    status = (service or {}).get("status") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or []}
    if service is None or status.get("observedGeneration") != service["metadata"]["generation"]:
        return False
    told = conditions["Ready"]["reason"] == "QuotaExceeded"
    if phase == "end autoscaling":
        told = told and client.get("horizontalpodautoscalers", namespace, NAME) is None
    if phase == "begin autoscaling":
        told = told and conditions.get("ScalingActive", {}).get("reason") == "FailedGetExternalMetric"
    return told


class Laboratory:
    """A namespace in which nothing can be scheduled, an operator behind the proxy, and a life to be led."""

    def __init__(self, client: KubernetesClient, proxy: FaultProxy, port: int, authority: str, folder: Path) -> None:
        self.client = client
        self.proxy = proxy
        self.namespace = f"test-{uuid.uuid4().hex[:8]}"
        client.create("namespaces", {"metadata": {"name": self.namespace}})
        quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
        client.request("POST", f"/api/v1/namespaces/{self.namespace}/resourcequotas", body=quota)
        kubeconfig = write_kubeconfig(
            folder / f"{self.namespace}.kubeconfig",
            server=f"https://127.0.0.1:{port}",
            authority=authority,
            token=grant(client, self.namespace),
        )
        # A container that is restarted in its pod keeps its name, and so its Lease.
        self.operator = OperatorProcess(folder, kubeconfig, self.namespace, f"operator-{self.namespace}")

    def live(self, reference: list[Object] | None) -> list[Object]:
        """Go through all phases and return the state at the end of each.

        Args:
            reference: What each phase has to reach; None records it.
        """
        ends: list[Object] = []
        self.operator.start()
        try:
            for number, (phase, spec) in enumerate(PHASES):
                self.declare(spec)
                expected = reference[number] if reference is not None else None
                wait_until(
                    lambda phase=phase, expected=expected: self.has_arrived(phase, expected),
                    what=f"the end of the phase {phase!r}",
                    seconds=PHASE_SECONDS,
                    explain=lambda expected=expected: self.explain(expected),
                )
                ends.append(state(self.client, self.namespace))
        finally:
            self.operator.kill()
            self.client.delete("namespaces", "", self.namespace)
        return ends

    def has_arrived(self, phase: str, expected: Object | None) -> bool:
        if not self.operator.is_running:
            self.operator.start()
        if expected is None:
            return is_settled(self.client, self.namespace, phase)
        return state(self.client, self.namespace) == expected

    def declare(self, spec: dict[str, Any] | None) -> None:
        if spec is None:
            self.client.delete("depthservices", self.namespace, NAME)
            return
        source = {"imageBundled": {"path": "/models/a.pth"}}
        body = {
            "apiVersion": "depthserving.dev/v1alpha1",
            "kind": "DepthService",
            "metadata": {"name": NAME, "namespace": self.namespace},
            "spec": {"model": {"source": source}, **spec},
        }
        self.client.apply("depthservices", body, field_manager="user")

    def explain(self, expected: Object | None) -> str:
        seen = json.dumps(state(self.client, self.namespace), indent=1, sort_keys=True).splitlines()
        wanted = json.dumps(expected, indent=1, sort_keys=True).splitlines()
        difference = "\n".join(difflib.unified_diff(wanted, seen, "expected", "seen", lineterm=""))
        return f"{difference}\n{self.operator.log()}"


@contextmanager
def proxied(client: KubernetesClient, folder: Path) -> Iterator[tuple[FaultProxy, int, str, list[OperatorProcess]]]:
    """A running proxy, its port, its authority (PEM), and the list whose last process it kills."""
    authority = pki.new_authority("fault-proxy")
    certificate, key = pki.issue(authority, pki.Subject("proxy", "fault-proxy", names=("127.0.0.1",), server=True))
    files = folder / "proxy.crt", folder / "proxy.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    unencrypted = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted))
    cluster = yaml.safe_load(client.kubeconfig.read_text())["clusters"][0]["cluster"]
    victims: list[OperatorProcess] = []
    upstream_ca = decode(cluster["certificate-authority-data"])

    def kill_the_last() -> None:
        victims[-1].kill()

    proxy = FaultProxy(cluster["server"], upstream_ca, files, kill_the_last)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fault proxy")
    thread.start()
    try:
        port = asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(10)
        yield proxy, port, authority.certificate.public_bytes(serialization.Encoding.PEM).decode(), victims
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@pytest.mark.parametrize("kind", Kind)
def test_a_kill_at_any_write_changes_nothing_in_the_end(client: KubernetesClient, tmp_path: Path, kind: Kind) -> None:
    with proxied(client, tmp_path) as (proxy, port, authority, victims):

        def life(fault: Fault | None, reference: list[Object] | None) -> list[Object]:
            laboratory = Laboratory(client, proxy, port, authority, tmp_path)
            victims.append(laboratory.operator)
            proxy.arm(fault)
            return laboratory.live(reference)

        reference = life(None, None)
        writes = list(proxy.writes[kind])
        assert reference[-1] == {"depthservice": None, "children": {}}, "an orphan"
        assert len(writes) >= MIN_WRITES[kind], writes
        failures: list[str] = []
        unfired: list[str] = []
        for index, when in itertools.product(range(len(writes)), When):
            struck = f"{when} {kind} {index} ({writes[index]})"
            try:
                life(Fault(kind, index, when), reference)
            except AssertionError as error:
                failures.append(f"{struck}: {error}")
                assert len(failures) < MAX_FAILURES, "\n".join(failures)
            if not proxy.fired:
                unfired.append(struck)
        assert not failures, "\n".join(failures)
        # The number of reports depends on how events fall together: a run may do with fewer than the recorded.
        assert len(unfired) <= (0 if kind is Kind.CHANGE else len(writes)), f"never struck: {unfired}"
        print(f"{len(writes)} {kind}s, {2 * len(writes) - len(unfired)} kills, 0 differences")  # noqa: T201 - the figure that the test is about
