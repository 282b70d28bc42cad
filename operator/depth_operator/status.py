"""The status of a DepthService, computed from what was observed and decided. Pure.

Ready is strict: at least the declared number of replicas (``spec.replicas``, or ``minReplicas`` with autoscaling) is
ready *with the present configuration*, and no pod of another configuration is left. So it never says True while a spec
change is still rolling out, and it does not flap while the autoscaler adds replicas. WorkloadAvailable is lenient: any
replica answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depth_operator.api.conditions import Condition, ConditionType, Reason, set_condition
from depth_operator.api.naming import label_selector, selector_labels
from depth_operator.api.v1alpha1 import MetricType
from depth_operator.diagnosis import Finding, diagnose, quote
from depth_operator.observe import Action, ChildOutcome, Observed, Pod, deployment_replicas, status_conditions
from depth_operator.scaling.types import DataQuality, Decision

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from depth_operator.api.v1alpha1 import DepthService
    from depth_operator.manifests import Manifest

Status = dict[str, Any]

_VOLATILE_CONDITIONS = frozenset({ConditionType.METRICS_AVAILABLE, ConditionType.SCALING_LIMITED})
"""Conditions whose messages carry measured values."""

_METRICS: Mapping[DataQuality, tuple[str, Reason]] = {
    DataQuality.GOOD: ("True", Reason.METRICS_FRESH),
    DataQuality.PARTIAL: ("True", Reason.METRICS_PARTIAL),
    DataQuality.STALE: ("False", Reason.METRICS_STALE),
    DataQuality.MISSING: ("False", Reason.METRICS_MISSING),
    DataQuality.ERROR: ("False", Reason.PROMETHEUS_ERROR),
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that the status is computed from.

    Attributes:
        service: The DepthService.
        observed: Its children after they were applied, and its pods.
        outcomes: What became of each child.
        decision: The scaling decision; None where the operator's law does not decide.
        template_hash: Hash of the pod template of the present configuration.
        previous: The status as it stands.
        now: RFC 3339 time with whole seconds.
    """

    service: DepthService
    observed: Observed
    outcomes: tuple[ChildOutcome, ...]
    decision: Decision | None
    template_hash: str
    previous: Status
    now: str


def compute_status(inputs: Inputs) -> Status:
    """The whole status; what is not in it is to be removed."""
    service, observed = inputs.service, inputs.observed
    conditions = [_ready(inputs), _workload_available(observed), _progressing(inputs)]
    if service.spec.autoscaling is not None:
        conditions += _scaling_conditions(inputs)
    ready = sum(pod.ready for pod in observed.present_pods)
    status: Status = {
        "observedGeneration": service.generation,
        "url": _url(service, observed.service),
        "replicas": len(observed.present_pods),
        "desiredReplicas": _desired_replicas(inputs),
        "readyReplicas": ready,
        "updatedReplicas": len(_current_pods(inputs)),
        "selector": label_selector(selector_labels(service.key.name)),
        "model": {"name": service.spec.model.name},
        "conditions": _merge(inputs.previous.get("conditions") or [], conditions, service.generation, inputs.now),
    }
    if service.spec.autoscaling is not None:
        status["autoscaling"] = _autoscaling(inputs)
    return status


def invalid_spec_status(previous: Status, *, generation: int, message: str, now: str) -> Status:
    """The status of a DepthService that cannot be honoured: what was published stays, Ready says why."""
    condition = Condition(ConditionType.READY, "False", Reason.INVALID_SPEC, message)
    conditions = set_condition(previous.get("conditions") or [], condition, generation=generation, now=now)
    return {**previous, "observedGeneration": generation, "conditions": conditions}


def without_readings(status: Status) -> Status:
    """The status without measured values, which alone are no reason to write it at once."""
    conditions = [
        {key: value for key, value in condition.items() if key != "message"}
        if condition.get("type") in _VOLATILE_CONDITIONS
        else condition
        for condition in status.get("conditions") or []
    ]
    autoscaling = {
        key: value for key, value in (status.get("autoscaling") or {}).items() if key not in {"signals", "message"}
    }
    return {**status, "conditions": conditions, "autoscaling": autoscaling}


def published_replicas(status: Status) -> int | None:
    """The decision that the metrics API serves now; None before the first one."""
    value = (status.get("autoscaling") or {}).get("desiredReplicas")
    return int(value) if value is not None else None


def is_rolled_out(pods: Iterable[Pod], template_hash: str) -> bool:
    """Whether no pod of another configuration counts as a replica."""
    return all(pod.template_hash == template_hash for pod in pods if pod.present)


def _merge(
    previous: Sequence[dict[str, Any]], conditions: Sequence[Condition], generation: int, now: str
) -> list[dict[str, Any]]:
    """Set every condition; those that no longer apply go."""
    types = {condition.type for condition in conditions}
    merged: list[dict[str, Any]] = [item for item in previous if item.get("type") in types]
    for condition in conditions:
        merged = set_condition(merged, condition, generation=generation, now=now)
    return merged


def _current_pods(inputs: Inputs) -> list[Pod]:
    return [pod for pod in inputs.observed.present_pods if pod.template_hash == inputs.template_hash]


def _required_replicas(inputs: Inputs) -> int:
    """How many replicas the manifest promises."""
    autoscaling = inputs.service.spec.autoscaling
    return inputs.service.spec.fixed_replicas if autoscaling is None else autoscaling.min_replicas


def _desired_replicas(inputs: Inputs) -> int:
    """What is wanted of the Deployment in all: beside a CPU target the operator's decision is one of two answers."""
    autoscaling = inputs.service.spec.autoscaling
    if autoscaling is None:
        return inputs.service.spec.fixed_replicas
    decided = _autoscaled_replicas(inputs)
    if autoscaling.metric(MetricType.CPU_UTILIZATION) is None:
        return decided
    return max(decided, _autoscalers_answer(inputs.observed) or 0)


def _autoscaled_replicas(inputs: Inputs) -> int:
    """The decision that is published; without the operator's law that of the HorizontalPodAutoscaler."""
    if inputs.decision is not None:
        return inputs.decision.desired_replicas
    return _autoscalers_answer(inputs.observed) or deployment_replicas(inputs.observed.deployment)


def _autoscalers_answer(observed: Observed) -> int | None:
    desired = ((observed.autoscaler or {}).get("status") or {}).get("desiredReplicas")
    return int(desired) if desired else None


def _child_trouble(outcomes: Iterable[ChildOutcome]) -> Finding | None:
    """The first child that is not what it should be and will not become so by waiting."""
    reasons = {Action.CONFLICT: Reason.CHILD_CONFLICT, Action.REFUSED: Reason.CHILD_REFUSED}
    troubled = next((outcome for outcome in outcomes if outcome.action in reasons), None)
    return Finding(reasons[troubled.action], troubled.message) if troubled is not None else None


def _ready(inputs: Inputs) -> Condition:
    finding = _child_trouble(inputs.outcomes) or _shortfall(inputs)
    if finding is not None:
        return Condition(ConditionType.READY, "False", finding.reason, finding.message)
    ready = sum(pod.ready for pod in _current_pods(inputs))
    noun = "replica answers" if ready == 1 else "replicas answer"
    return Condition(
        ConditionType.READY, "True", Reason.AVAILABLE, f"{ready} {noun}, running the present configuration"
    )


def _shortfall(inputs: Inputs) -> Finding | None:
    """Why fewer replicas than promised run the present configuration, None if enough do and nothing else runs."""
    required = _required_replicas(inputs)
    if required == 0:
        return Finding(Reason.SCALED_TO_ZERO, "spec.replicas is 0; set it to 1 or more to serve")
    current = _current_pods(inputs)
    ready = sum(pod.ready for pod in current)
    stale = len(inputs.observed.present_pods) - len(current)
    if ready >= required and stale == 0:
        return None
    finding = diagnose(inputs.observed.deployment, current, gpu_resource=inputs.service.spec.gpu.resource_name)
    if finding is not None:
        return Finding(finding.reason, f"{ready} of {required} replicas ready: {finding.message}")
    if stale:
        noun = "pod" if stale == 1 else "pods"
        return Finding(Reason.ROLLING_OUT, f"{stale} {noun} of the former configuration still to be replaced")
    declared = deployment_replicas(inputs.observed.deployment)
    if inputs.observed.deployment is not None and declared < required:
        # Only after a write that failed: no pod comes before the Deployment asks for it.
        message = f"the Deployment has spec.replicas {declared}; raising it to {required} failed and is tried again"
        return Finding(Reason.CREATING, f"{ready} of {required} replicas ready: {message}")
    return Finding(Reason.CREATING, f"{ready} of {required} replicas ready: pods are being created")


def _workload_available(observed: Observed) -> Condition:
    ready = sum(pod.ready for pod in observed.present_pods)
    if ready:
        noun = "replica answers" if ready == 1 else "replicas answer"
        return Condition(ConditionType.WORKLOAD_AVAILABLE, "True", Reason.AVAILABLE, f"{ready} {noun}")
    message = "no replica answers requests; Ready says why"
    return Condition(ConditionType.WORKLOAD_AVAILABLE, "False", Reason.NO_REPLICA_READY, message)


def _progressing(inputs: Inputs) -> Condition:
    """True while the workload moves towards what is declared or has arrived there, False when it is stuck."""
    trouble = _child_trouble(inputs.outcomes)
    if trouble is not None:
        return Condition(ConditionType.PROGRESSING, "False", trouble.reason, trouble.message)
    progressing = status_conditions(inputs.observed.deployment).get("Progressing")
    shortfall = _shortfall(inputs)
    stalled = progressing is not None and progressing.get("reason") == "ProgressDeadlineExceeded"
    if shortfall is not None and stalled:
        message = f"the rollout made no progress before its deadline: {shortfall.message}"
        return Condition(ConditionType.PROGRESSING, "False", Reason.ROLLOUT_STALLED, message)
    if not is_rolled_out(inputs.observed.pods, inputs.template_hash):
        message = (
            f"{len(_current_pods(inputs))} of {len(inputs.observed.present_pods)} pods run the present configuration"
        )
        return Condition(ConditionType.PROGRESSING, "True", Reason.ROLLING_OUT, message)
    if shortfall is not None:
        return Condition(ConditionType.PROGRESSING, "True", Reason.AWAITING_REPLICAS, shortfall.message)
    return Condition(ConditionType.PROGRESSING, "True", Reason.ROLLED_OUT, "every pod runs the present configuration")


def _scaling_conditions(inputs: Inputs) -> list[Condition]:
    conditions = [_scaling_active(inputs.observed.autoscaler)]
    decision = inputs.decision
    if decision is not None:
        status, reason = _METRICS[decision.data_quality]
        message = decision.data_message or "the metrics are fresh and complete"
        conditions.append(Condition(ConditionType.METRICS_AVAILABLE, status, reason, message))
        limited = decision.limited_by or ""
        conditions.append(
            Condition(
                ConditionType.SCALING_LIMITED,
                "True" if limited else "False",
                limited or Reason.NOT_LIMITED,
                decision.message,
            )
        )
    return conditions


def _scaling_active(autoscaler: Manifest | None) -> Condition:
    """Repeats the HorizontalPodAutoscaler's own conditions: one place to look."""
    conditions = status_conditions(autoscaler)
    for name in ("AbleToScale", "ScalingActive"):
        condition = conditions.get(name)
        if condition is not None and condition["status"] != "True":
            message = f"HorizontalPodAutoscaler: {quote(condition.get('message', ''))}"
            return Condition(ConditionType.SCALING_ACTIVE, condition["status"], condition["reason"], message)
    if "ScalingActive" not in conditions:
        message = "the HorizontalPodAutoscaler has not been evaluated yet"
        return Condition(ConditionType.SCALING_ACTIVE, "Unknown", Reason.AWAITING_AUTOSCALER, message)
    reason = conditions["ScalingActive"]["reason"]
    return Condition(ConditionType.SCALING_ACTIVE, "True", reason, "the HorizontalPodAutoscaler acts on the decision")


def _autoscaling(inputs: Inputs) -> dict[str, Any]:
    decision = inputs.decision
    autoscaling: dict[str, Any] = {"desiredReplicas": _autoscaled_replicas(inputs)}
    if decision is None:
        message = "decided by the HorizontalPodAutoscaler from the CPU usage"
        autoscaling |= {"reason": "CPUUtilization", "message": message, "limitedBy": "None"}
    else:
        autoscaling |= {
            "reason": str(decision.reason),
            "message": decision.message,
            "limitedBy": str(decision.limited_by) or "None",
            "signals": [
                {"type": reading.type, "current": reading.current, "target": reading.target}
                for reading in decision.readings
            ],
        }
    last_scale_time = ((inputs.observed.autoscaler or {}).get("status") or {}).get("lastScaleTime")
    if last_scale_time:
        autoscaling["lastScaleTime"] = last_scale_time
    return autoscaling


def _url(service: DepthService, live: Manifest | None) -> str:
    """The load balancer's address where there is one, else the Service's name inside the cluster."""
    port = service.spec.expose.service.port
    suffix = "" if port == 80 else f":{port}"
    ingress = (((live or {}).get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    if ingress:
        host = ingress[0].get("hostname") or ingress[0].get("ip", "")
        return f"http://[{host}]{suffix}" if ":" in host else f"http://{host}{suffix}"
    return f"http://{service.key.name}.{service.key.namespace}.svc{suffix}"
