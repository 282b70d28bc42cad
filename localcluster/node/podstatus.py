"""A pod's status as a kubelet writes it, built from what is known of its containers. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from localcluster.settings import JsonObject


@dataclass(frozen=True)
class Waiting:
    """A container that does not run yet, or not at the moment."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    """A container whose process runs since `started_at` (RFC 3339)."""

    started_at: str


@dataclass(frozen=True)
class Terminated:
    """A container that ended."""

    exit_code: int
    reason: str
    message: str
    started_at: str
    finished_at: str
    container_id: str


ContainerState = Waiting | Running | Terminated


@dataclass
class ContainerRecord:
    """What the node knows of one container.

    Attributes:
        container_id: Id of the current or last instance; empty before the first.
        sidecar: An init container with restartPolicy Always.
    """

    name: str
    image: str
    state: ContainerState = field(default_factory=lambda: Waiting("ContainerCreating"))
    last: Terminated | None = None
    restarts: int = 0
    started: bool = False
    ready: bool = False
    container_id: str = ""
    sidecar: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether it ended with 0."""
        return isinstance(self.state, Terminated) and self.state.exit_code == 0


@dataclass(frozen=True)
class PodFacts:
    """What the node knows of one pod.

    Attributes:
        sandbox: Whether folder, address and volumes are there.
    """

    init: Sequence[ContainerRecord]
    main: Sequence[ContainerRecord]
    pod_ip: str
    host_ip: str
    start_time: str
    sandbox: bool = True


def _state(state: ContainerState) -> JsonObject:
    if isinstance(state, Waiting):
        waiting = {"reason": state.reason}
        return {"waiting": {**waiting, "message": state.message} if state.message else waiting}
    if isinstance(state, Running):
        return {"running": {"startedAt": state.started_at}}
    terminated = {
        "exitCode": state.exit_code,
        "reason": state.reason,
        "startedAt": state.started_at,
        "finishedAt": state.finished_at,
        "containerID": state.container_id,
    }
    return {"terminated": {**terminated, "message": state.message} if state.message else terminated}


def container_status(record: ContainerRecord) -> JsonObject:
    """Return one entry of `containerStatuses`."""
    return {
        "name": record.name,
        "image": record.image,
        "imageID": f"localcluster://{record.image}" if record.container_id else "",
        "containerID": record.container_id,
        "state": _state(record.state),
        "lastState": _state(record.last) if record.last else {},
        "restartCount": record.restarts,
        "started": record.started,
        "ready": record.ready,
    }


def initialized(facts: PodFacts) -> bool:
    """Say whether every init container is done, sidecars started."""
    return all(record.started if record.sidecar else record.succeeded for record in facts.init)


def pod_phase(policy: str, facts: PodFacts) -> str:
    """Return the pod's phase, as the kubelet's getPhase does (kubernetes/pkg/kubelet/kubelet_pods.go)."""
    failed_init = any(
        isinstance(record.state, Terminated) and record.state.exit_code != 0 and not record.sidecar
        for record in facts.init
    )
    if policy == "Never" and failed_init:
        return "Failed"
    waiting = any(isinstance(record.state, Waiting) and record.last is None for record in facts.main)
    if waiting or (not initialized(facts) and not _all_ended(facts.main)):
        return "Pending"
    if any(isinstance(record.state, Running) for record in facts.main) or policy == "Always":
        return "Running"
    ended = [record.state if isinstance(record.state, Terminated) else record.last for record in facts.main]
    if all(state is not None and state.exit_code == 0 for state in ended):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def _all_ended(records: Sequence[ContainerRecord]) -> bool:
    return all(isinstance(record.state, Terminated) for record in records)


def _condition(kind: str, *, true: bool, reason: str = "", message: str = "") -> JsonObject:
    condition = {"type": kind, "status": "True" if true else "False"}
    return condition if true else {**condition, "reason": reason, "message": message}


def _conditions(pod: JsonObject, phase: str, facts: PodFacts) -> list[JsonObject]:
    over = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase)
    pending = [record.name for record in facts.init if not (record.started if record.sidecar else record.succeeded)]
    unready = [record.name for record in [*facts.main, *(r for r in facts.init if r.sidecar)] if not record.ready]
    containers_ready = not unready and over is None and not pending
    reason = over or "ContainersNotReady"
    message = f"containers with unready status: [{' '.join(unready)}]" if over is None else ""
    existing = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", [])}
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates", [])]
    open_gates = [gate for gate in gates if existing.get(gate) != "True"]
    if containers_ready and open_gates:
        ready = _condition(
            "Ready",
            true=False,
            reason="ReadinessGatesNotReady",
            message=f'the status of pod readiness gate {open_gates[0]!r} is not "True"',
        )
    else:
        ready = _condition("Ready", true=containers_ready, reason=reason, message=message)
    return [
        _condition("PodReadyToStartContainers", true=facts.sandbox and over is None),
        _condition(
            "Initialized",
            true=not pending or phase == "Succeeded",
            reason="ContainersNotInitialized",
            message=f"containers with incomplete status: [{' '.join(pending)}]",
        ),
        ready,
        _condition("ContainersReady", true=containers_ready, reason=reason, message=message),
    ]


def build_status(pod: JsonObject, facts: PodFacts, now: str) -> JsonObject:
    """Return the pod's status.

    Args:
        pod: The pod as last read; transition times of unchanged conditions are taken from it, and conditions of
            others (the scheduler's, readiness gates) are not repeated, as the patch merges by type.
        facts: What the node knows.
        now: Time for changed conditions (RFC 3339).
    """
    phase = pod_phase(pod["spec"].get("restartPolicy", "Always"), facts)
    before: Mapping[str, JsonObject] = {c["type"]: c for c in pod.get("status", {}).get("conditions", [])}
    conditions = []
    for condition in _conditions(pod, phase, facts):
        old = before.get(condition["type"])
        same = old is not None and old["status"] == condition["status"] and "lastTransitionTime" in old
        # A merge by type keeps fields that are not named, so the absent ones are named as null.
        conditions.append(
            {
                "reason": None,
                "message": None,
                **condition,
                "lastTransitionTime": old["lastTransitionTime"] if same and old is not None else now,
            }
        )
    status: JsonObject = {
        "phase": phase,
        "conditions": conditions,
        "hostIP": facts.host_ip,
        "hostIPs": [{"ip": facts.host_ip}],
        "podIP": facts.pod_ip,
        "podIPs": [{"ip": facts.pod_ip}],
        "startTime": facts.start_time,
        "initContainerStatuses": [container_status(record) for record in facts.init],
        "containerStatuses": [container_status(record) for record in facts.main],
    }
    if not facts.init:
        del status["initContainerStatuses"]
    return status
