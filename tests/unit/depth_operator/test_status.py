"""The status that a DepthService shows for what was observed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from depth_operator.api.conditions import find_condition
from depth_operator.events import transition_events
from depth_operator.observe import Action, ChildOutcome, Observed, Pod
from depth_operator.scaling.types import DataQuality, Decision, Memory, SignalReading
from depth_operator.status import Inputs, compute_status, invalid_spec_status, without_readings
from tests.unit.depth_operator.builders import autoscaling, container_status, pod, service

if TYPE_CHECKING:
    from depth_operator.api.v1alpha1 import DepthService

CRD = yaml.safe_load((Path(__file__).resolve().parents[3] / "crds/depthservices.yaml").read_text())
STATUS_SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
NOW = "2026-01-01T00:00:00Z"


def decision(desired: int = 2, quality: DataQuality = DataQuality.GOOD, **changes: Any) -> Decision:
    values: dict[str, Any] = {
        "reason": "OfferedLoad",
        "message": f"{desired} replicas",
        "limited_by": "",
        "data_message": "",
        "readings": (SignalReading("GPUUtilization", "50 %", "70 %"),),
        "memory": Memory.initial(),
        **changes,
    }
    return Decision(desired_replicas=desired, data_quality=quality, **values)


def status(
    owner: DepthService,
    pods: list[dict[str, Any]],
    *,
    outcomes: tuple[ChildOutcome, ...] = (),
    decided: Decision | None = None,
    deployment: dict[str, Any] | None = None,
    autoscaler: dict[str, Any] | None = None,
    live_service: dict[str, Any] | None = None,
    previous: dict[str, Any] | None = None,
) -> dict[str, Any]:
    observed = Observed(deployment, live_service, autoscaler, tuple(Pod.parse(item) for item in pods))
    return compute_status(Inputs(owner, observed, outcomes, decided, "now", previous or {}, NOW))


def condition(value: dict[str, Any], name: str) -> tuple[str, str]:
    found = find_condition(value["conditions"], name)
    assert found is not None, name
    return found["status"], found["reason"]


def ready_pods(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [pod(f"ready-{number}", ready=True, **changes) for number in range(count)]


def test_ready_when_the_declared_replicas_answer() -> None:
    value = status(service(replicas=2), ready_pods(2))
    assert condition(value, "Ready") == ("True", "Available")
    assert condition(value, "Progressing") == ("True", "RolledOut")
    assert (value["replicas"], value["readyReplicas"], value["updatedReplicas"], value["desiredReplicas"]) == (
        2,
        2,
        2,
        2,
    )


def test_not_ready_while_pods_of_the_former_configuration_remain() -> None:
    value = status(service(replicas=2), [*ready_pods(2), pod("old", ready=True, template_hash="former")])
    assert condition(value, "Ready") == ("False", "RollingOut")
    assert condition(value, "WorkloadAvailable") == ("True", "Available")
    assert condition(value, "Progressing") == ("True", "RollingOut")
    assert (value["replicas"], value["updatedReplicas"]) == (3, 2)


def test_not_ready_right_after_a_change_though_all_former_pods_answer() -> None:
    value = status(service(replicas=2), ready_pods(2, template_hash="former"))
    assert condition(value, "Ready") == ("False", "RollingOut")


def test_terminating_pods_do_not_delay_ready() -> None:
    value = status(service(), [*ready_pods(1), pod("old", template_hash="former", terminating=True)])
    assert condition(value, "Ready") == ("True", "Available")


def test_ready_does_not_flap_while_the_autoscaler_adds_replicas() -> None:
    value = status(service(autoscaling=autoscaling(1, 4)), [*ready_pods(1), pod("new")], decided=decision(2))
    assert condition(value, "Ready") == ("True", "Available")
    assert (value["desiredReplicas"], value["readyReplicas"]) == (2, 1)


def test_fewer_than_the_declared_replicas_are_not_ready_but_available() -> None:
    value = status(service(replicas=3), [*ready_pods(2), pod("slow")])
    assert condition(value, "Ready") == ("False", "WarmingUp")
    assert condition(value, "Progressing") == ("True", "AwaitingReplicas")
    assert condition(value, "WorkloadAvailable") == ("True", "Available")


def test_the_diagnosis_is_of_the_present_configuration() -> None:
    broken = container_status(
        state={"waiting": {"reason": "CrashLoopBackOff"}},
        lastState={"terminated": {"exitCode": 1, "message": "WeightsNotFound: no file"}},
    )
    value = status(service(), [*ready_pods(1, template_hash="former"), pod("new", containerStatuses=broken)])
    assert condition(value, "Ready") == ("False", "WeightsNotFound")
    assert condition(value, "WorkloadAvailable") == ("True", "Available")


def test_zero_replicas_are_told() -> None:
    assert condition(status(service(replicas=0), []), "Ready") == ("False", "ScaledToZero")


def test_a_deployment_that_asks_for_too_few_pods_is_not_said_to_create_them() -> None:
    owner = service(autoscaling=autoscaling(2, 4))
    value = status(owner, [], decided=decision(2), deployment={"spec": {"replicas": 0}})
    found = find_condition(value["conditions"], "Ready")
    assert found is not None
    assert found["message"] == (
        "0 of 2 replicas ready: the Deployment has spec.replicas 0; raising it to 2 failed and is tried again"
    )


def test_a_stalled_rollout_is_told_with_its_cause() -> None:
    conditions = [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]
    value = status(service(), [pod()], deployment={"spec": {}, "status": {"conditions": conditions}})
    assert condition(value, "Progressing") == ("False", "RolloutStalled")
    assert condition(value, "Ready") == ("False", "WarmingUp")


@pytest.mark.parametrize(("action", "reason"), [(Action.CONFLICT, "ChildConflict"), (Action.REFUSED, "ChildRefused")])
def test_a_child_that_cannot_be_made_is_told_first(action: Action, reason: str) -> None:
    value = status(service(), ready_pods(1), outcomes=(ChildOutcome("Deployment", action, "why"),))
    assert condition(value, "Ready") == ("False", reason)
    assert condition(value, "Progressing") == ("False", reason)


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (DataQuality.GOOD, ("True", "MetricsFresh")),
        (DataQuality.PARTIAL, ("True", "MetricsPartial")),
        (DataQuality.STALE, ("False", "MetricsStale")),
        (DataQuality.MISSING, ("False", "MetricsMissing")),
        (DataQuality.ERROR, ("False", "PrometheusError")),
    ],
)
def test_doubt_about_the_metrics_is_a_condition(quality: DataQuality, expected: tuple[str, str]) -> None:
    value = status(service(autoscaling=autoscaling()), ready_pods(1), decided=decision(quality=quality))
    assert condition(value, "MetricsAvailable") == expected


def test_a_limit_is_a_condition_and_its_absence_is_spelt_out() -> None:
    owner = service(autoscaling=autoscaling())
    limited = status(owner, ready_pods(1), decided=decision(limited_by="MaxReplicas"))
    assert condition(limited, "ScalingLimited") == ("True", "MaxReplicas")
    assert limited["autoscaling"]["limitedBy"] == "MaxReplicas"
    free = status(owner, ready_pods(1), decided=decision())
    assert condition(free, "ScalingLimited") == ("False", "NotLimited")
    assert free["autoscaling"]["limitedBy"] == "None"


def test_the_autoscalers_own_trouble_is_repeated() -> None:
    conditions = [
        {"type": "AbleToScale", "status": "True", "reason": "SucceededGetScale"},
        {
            "type": "ScalingActive",
            "status": "False",
            "reason": "FailedGetExternalMetric",
            "message": "no  such\nmetric.",
        },
    ]
    autoscaler = {"status": {"conditions": conditions, "lastScaleTime": NOW}}
    value = status(service(autoscaling=autoscaling()), ready_pods(1), decided=decision(), autoscaler=autoscaler)
    assert condition(value, "ScalingActive") == ("False", "FailedGetExternalMetric")
    assert value["autoscaling"]["lastScaleTime"] == NOW


def test_with_a_cpu_target_alone_the_autoscaler_decides() -> None:
    owner = service(autoscaling=autoscaling(1, 4, {"type": "CPUUtilization", "targetPercent": 60}))
    value = status(owner, ready_pods(1), autoscaler={"status": {"desiredReplicas": 3}})
    assert value["autoscaling"]["reason"] == "CPUUtilization"
    assert value["desiredReplicas"] == 3
    assert find_condition(value["conditions"], "MetricsAvailable") is None


@pytest.mark.parametrize(("answer", "desired"), [(4, 4), (1, 2), (0, 2)])
def test_beside_a_cpu_target_the_larger_number_is_wanted_and_the_decision_is_published(
    answer: int, desired: int
) -> None:
    gpu, cpu = ({"type": name, "targetPercent": 60} for name in ("GPUUtilization", "CPUUtilization"))
    autoscaler = {"status": {"desiredReplicas": answer}}
    owner = service(autoscaling=autoscaling(1, 4, gpu, cpu))
    value = status(owner, ready_pods(1), decided=decision(2), autoscaler=autoscaler)
    assert (value["desiredReplicas"], value["autoscaling"]["desiredReplicas"]) == (desired, 2)
    owner = service(autoscaling=autoscaling(1, 4, gpu))
    value = status(owner, ready_pods(1), decided=decision(2), autoscaler=autoscaler)
    assert value["desiredReplicas"] == 2, "without a CPU target the autoscaler only lags behind the decision"


def test_conditions_of_autoscaling_go_with_it() -> None:
    before = status(service(autoscaling=autoscaling()), ready_pods(1), decided=decision())
    after = status(service(), ready_pods(1), previous=before)
    assert {item["type"] for item in after["conditions"]} == {"Ready", "WorkloadAvailable", "Progressing"}
    assert "autoscaling" not in after


@pytest.mark.parametrize(
    ("port", "ingress", "url"),
    [
        (80, [], "http://depth.default.svc"),
        (8080, [], "http://depth.default.svc:8080"),
        (80, [{"ip": "203.0.113.7"}], "http://203.0.113.7"),
        (8080, [{"hostname": "lb.example.com"}], "http://lb.example.com:8080"),
        (80, [{"ip": "2001:db8::1"}], "http://[2001:db8::1]"),
    ],
)
def test_the_url_is_where_the_service_is_reached(port: int, ingress: list[dict[str, str]], url: str) -> None:
    owner = service(expose={"service": {"port": port}})
    live = {"status": {"loadBalancer": {"ingress": ingress}}}
    assert status(owner, [], live_service=live)["url"] == url


def test_an_invalid_spec_keeps_what_was_published() -> None:
    before = status(service(autoscaling=autoscaling()), ready_pods(1), decided=decision(3))
    after = invalid_spec_status(before, generation=2, message="spec.x: unknown", now=NOW)
    assert after["autoscaling"]["desiredReplicas"] == 3
    assert after["observedGeneration"] == 2
    assert condition(after, "Ready") == ("False", "InvalidSpec")


pod_states = st.lists(
    st.builds(
        pod,
        name=st.text("abc", min_size=1, max_size=3),
        ready=st.booleans(),
        template_hash=st.sampled_from(["now", "former"]),
        terminating=st.booleans(),
    ),
    max_size=6,
)


@given(pod_states, st.integers(0, 4))
def test_ready_means_that_enough_current_pods_answer_and_no_other_remains(
    pods: list[dict[str, Any]], replicas: int
) -> None:
    value = status(service(replicas=replicas), pods)
    parsed = [Pod.parse(item) for item in pods]
    present = [item for item in parsed if item.present]
    current = [item for item in present if item.template_hash == "now"]
    enough = sum(item.ready for item in current) >= replicas > 0
    assert (condition(value, "Ready")[0] == "True") == (enough and len(current) == len(present))
    available = any(item.ready for item in present)
    assert (condition(value, "WorkloadAvailable")[0] == "True") == available


@given(pod_states, st.booleans())
def test_an_unchanged_state_gives_an_unchanged_status(pods: list[dict[str, Any]], scaled: bool) -> None:
    owner = service(autoscaling=autoscaling()) if scaled else service()
    decided = decision() if scaled else None
    once = status(owner, pods, decided=decided)
    assert status(owner, pods, decided=decided, previous=once) == once


@given(pod_states)
def test_every_written_field_is_declared_in_the_crd(pods: list[dict[str, Any]]) -> None:
    """An undeclared field is pruned by the API server, and the status would be written again and again."""
    autoscaler = {"status": {"lastScaleTime": NOW}}
    value = status(service(autoscaling=autoscaling()), pods, decided=decision(), autoscaler=autoscaler)
    assert_declared(value, STATUS_SCHEMA, "status")


def assert_declared(value: Any, schema: dict[str, Any], path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            assert key in schema["properties"], f"{path}.{key}"
            assert_declared(item, schema["properties"][key], f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            assert_declared(item, schema["items"], path)
    elif isinstance(value, str):
        assert len(value) <= schema.get("maxLength", 10**9), path
        assert re.search(schema.get("pattern", ""), value), path


def test_measured_values_alone_are_no_material_change() -> None:
    owner = service(autoscaling=autoscaling())
    first = status(owner, ready_pods(1), decided=decision(message="2 replicas for 3.1 images per second"))
    other = (SignalReading("GPUUtilization", "51 %", "70 %"),)
    second = status(owner, ready_pods(1), decided=decision(message="2 replicas for 3.2 images", readings=other))
    assert first != second
    assert without_readings(first) == without_readings(second)
    third = status(owner, ready_pods(1), decided=decision(3))
    assert without_readings(first) != without_readings(third)


def test_events_tell_transitions_only() -> None:
    owner = service(autoscaling=autoscaling())
    waiting = status(owner, [pod()], decided=decision(1))
    ready = status(owner, ready_pods(1), decided=decision(1), previous=waiting)
    scaled = status(owner, ready_pods(1), decided=decision(3), previous=ready)
    assert [(event.type, event.reason) for event in transition_events({}, waiting)] == [("Normal", "WarmingUp")]
    assert [(event.type, event.reason) for event in transition_events(waiting, ready)] == [("Normal", "Available")]
    assert [event.reason for event in transition_events(ready, scaled)] == ["ScaledUp"]
    assert [event.reason for event in transition_events(scaled, ready)] == ["ScaledDown"]
    assert list(transition_events(scaled, scaled)) == []


def test_trouble_is_a_warning() -> None:
    trouble = status(service(), [], outcomes=(ChildOutcome("Service", Action.CONFLICT, "taken"),))
    assert [event.type for event in transition_events({}, trouble)] == ["Warning"]
