"""The path from a manifest to a depth map and to more replicas; the demo and the end-to-end test walk it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from demo.commands import wait_until
from demo.stages import DemoError
from localcluster.network import reach

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from demo.commands import Commands

OPERATOR_NAMESPACE = "depth-system"
RELEASE = "depth-operator"
WEIGHTS_JOB = "depth-demo-weights"
PREDICT_TIMEOUT_SECONDS = 120.0
READY_TIMEOUT_SECONDS = 300.0
JOB_TIMEOUT_SECONDS = 180.0
SCALE_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class Replicas:
    """Replicas of a DepthService: what runs and is ready, what is wanted, what the Deployment asks for."""

    ready: int
    desired: int
    specified: int
    message: str
    """The autoscaler's own sentence."""


def install_operator(commands: Commands, chart: Path, values: Path) -> str:
    """Installs or upgrades the chart with helm and waits for its pods; returns the release's version."""
    commands.helm(
        "upgrade", "--install", RELEASE, str(chart), "--namespace", OPERATOR_NAMESPACE, "--create-namespace",
        "--values", str(values), "--wait", "--timeout", "170s",
    )  # fmt: skip
    wait_until(
        lambda: "True" in _condition(commands, "apiservice", "v1beta1.external.metrics.k8s.io", "Available"),
        what="the external metrics API becoming available",
        timeout_seconds=READY_TIMEOUT_SECONDS,
        explain=lambda: commands.kubectl("get", "pods", "--namespace", OPERATOR_NAMESPACE, "--output=wide"),
    )
    listed = json.loads(commands.helm("list", "--namespace", OPERATOR_NAMESPACE, "--output", "json"))
    return str(listed[0]["chart"])


def make_weights(commands: Commands, manifest: Path) -> None:
    """Applies the volume claim and the Job that writes weights into it, and waits for the Job."""
    commands.kubectl("apply", "--filename", str(manifest))
    wait_until(
        lambda: "True" in _condition(commands, "job", WEIGHTS_JOB, "Complete"),
        what=f"the Job {WEIGHTS_JOB}",
        timeout_seconds=JOB_TIMEOUT_SECONDS,
        explain=lambda: commands.kubectl(
            "describe", "pods", "--selector", f"batch.kubernetes.io/job-name={WEIGHTS_JOB}"
        ),
    )


def wait_ready(commands: Commands, name: str, say: Callable[[str], None]) -> None:
    """Waits until the DepthService is Ready, telling its reason and message meanwhile."""

    def is_ready() -> bool:
        status, reason, message = ready_condition(commands, name)
        say(reason if not message else f"{reason}: {message.splitlines()[0]}")
        return status == "True"

    wait_until(
        is_ready,
        what=f"DepthService {name} becoming Ready",
        timeout_seconds=READY_TIMEOUT_SECONDS,
        explain=lambda: commands.kubectl("describe", "depthservice", name),
    )


def ready_condition(commands: Commands, name: str) -> tuple[str, str, str]:
    """Status, reason and message of the DepthService's Ready condition, if it speaks of the current generation."""
    service = commands.get("depthservice", name) or {}
    generation = service.get("metadata", {}).get("generation")
    for condition in service.get("status", {}).get("conditions", []):
        if condition["type"] == "Ready" and condition.get("observedGeneration") == generation:
            return condition["status"], condition["reason"], condition.get("message", "")
    return "Unknown", "NotYetObserved", ""


def endpoint(commands: Commands, name: str) -> str:
    """The loopback URL at which the Service of the DepthService is reached from this machine."""
    service = commands.get("service", name)
    if service is None:
        raise DemoError(f"there is no Service {name}; `kubectl get dsvc {name} -o yaml` says why")
    host, port = reach(service["spec"]["clusterIP"], service["spec"]["ports"][0]["port"])
    return f"http://{host}:{port}"


def predict(url: str, image: bytes) -> dict[str, Any]:
    """Posts the image and returns the answer's JSON.

    Raises:
        DemoError: the endpoint answered with anything but 200; the problem document is in the message.
    """
    answer = httpx.post(
        f"{url}/predict",
        files={"file": ("photo.jpg", image, "image/jpeg")},
        timeout=PREDICT_TIMEOUT_SECONDS,
        trust_env=False,
    )
    if answer.status_code != httpx.codes.OK:
        raise DemoError(f"POST {url}/predict answered {answer.status_code}: {answer.text}")
    content: dict[str, Any] = answer.json()
    return content


def replicas(commands: Commands, name: str) -> Replicas:
    """Replicas as the API objects tell them now."""
    status = (commands.get("depthservice", name) or {}).get("status", {})
    deployment = commands.get("deployment", name) or {}
    return Replicas(
        ready=status.get("readyReplicas", 0),
        desired=status.get("autoscaling", {}).get("desiredReplicas", 0),
        specified=deployment.get("spec", {}).get("replicas", 0),
        message=status.get("autoscaling", {}).get("message", ""),
    )


def wait_replicas(
    commands: Commands, name: str, holds: Callable[[Replicas], bool], *, what: str, say: Callable[[str], None]
) -> Replicas:
    """Waits until the replicas satisfy ``holds``, telling the autoscaler's own sentence meanwhile; returns them."""
    seen: list[Replicas] = []

    def check() -> bool:
        current = replicas(commands, name)
        seen[:] = [current]
        say(f"{current.ready} ready of {current.specified}; {current.message}")
        return holds(current)

    wait_until(
        check,
        what=what,
        timeout_seconds=SCALE_TIMEOUT_SECONDS,
        explain=lambda: (
            commands.kubectl("describe", "hpa", name) + commands.kubectl("get", "depthservice", name, "--output=yaml")
        ),
    )
    return seen[0]


def _condition(commands: Commands, kind: str, name: str, condition: str) -> str:
    return commands.kubectl(
        "get", kind, name, f"--output=jsonpath={{.status.conditions[?(@.type=='{condition}')].status}}"
    )
