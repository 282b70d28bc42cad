"""What a new node knows of containers that an earlier run of it started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localcluster.node.backoff import restarts
from localcluster.node.podstatus import ContainerRecord, Terminated, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcluster.settings import JsonObject

LOST_EXIT_CODE = 255
"""Exit code of a container whose end nobody saw, as in the kubelet after a reboot."""


def _terminated(state: JsonObject, fallback_start: str, now: str) -> Terminated:
    return Terminated(
        exit_code=state.get("exitCode", LOST_EXIT_CODE),
        reason=state.get("reason", "Unknown"),
        message=state.get("message", ""),
        started_at=state.get("startedAt") or fallback_start,
        finished_at=state.get("finishedAt") or now,
        container_id=state.get("containerID", ""),
    )


def _record(
    spec: JsonObject, status: JsonObject | None, now: str, waiting: str, keep: Callable[[int], bool]
) -> ContainerRecord:
    record = ContainerRecord(spec["name"], spec["image"], Waiting(waiting))
    if status is None or not status.get("containerID"):
        return record
    record.restarts = status.get("restartCount", 0)
    record.container_id = status["containerID"]
    state = status.get("state", {})
    ended = state.get("terminated") or status.get("lastState", {}).get("terminated") or {}
    if "running" in state:
        ended = {"startedAt": state["running"].get("startedAt")}
    lost = _terminated({**ended, "containerID": ended.get("containerID") or record.container_id}, now, now)
    if "waiting" not in state and keep(lost.exit_code):
        record.state = lost
    else:
        record.last = lost
        record.restarts += 1
    return record


def seed_records(
    pod: JsonObject, now: str
) -> tuple[list[tuple[JsonObject, ContainerRecord]], list[tuple[JsonObject, ContainerRecord]]]:
    """Return every init container and container of a pod with its record.

    A pod that ran under an earlier node process has lost its processes: its containers carry on with one restart
    more and `lastState` 255, reason Unknown. Containers that the restart policy does not start again keep their end,
    and init containers run again unless the pod has finished, as in the kubelet.
    """
    status = pod.get("status", {})
    over = status.get("phase") in ("Succeeded", "Failed")
    policy = pod["spec"].get("restartPolicy", "Always")
    known = {
        item["name"]: item for item in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    }
    declared = pod["spec"].get("initContainers", [])
    init = []
    for spec in declared:
        record = _record(spec, known.get(spec["name"]), now, "ContainerCreating", lambda _code: over)
        record.sidecar = spec.get("restartPolicy") == "Always"
        init.append((spec, record))
    waiting = "PodInitializing" if declared else "ContainerCreating"
    main = [
        (spec, _record(spec, known.get(spec["name"]), now, waiting, lambda code: over or not restarts(policy, code)))
        for spec in pod["spec"]["containers"]
    ]
    return init, main
