"""The children of a DepthService."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_operator.api.naming import APPLIED_HASH_ANNOTATION, TEMPLATE_HASH_ANNOTATION
from depth_operator.render import render_autoscaler, render_deployment, render_service
from tests.unit.depth_operator.builders import UID, autoscaling, service

IMAGE = "registry.example.com/depth-server:1"


def container(**spec: Any) -> dict[str, Any]:
    deployment = render_deployment(service(**spec), server_image=IMAGE, replicas=1)
    result: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return result


def environment(**spec: Any) -> dict[str, Any]:
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container(**spec)["env"]}


def pod_spec(**spec: Any) -> dict[str, Any]:
    result: dict[str, Any] = render_deployment(service(**spec), server_image=IMAGE, replicas=1)["spec"]["template"][
        "spec"
    ]
    return result


def test_the_environment_is_the_contract() -> None:
    assert environment(
        model={
            "family": "DepthAnythingV2",
            "variant": "ViTB14",
            "sha256": "a" * 64,
            "source": {"imageBundled": {"path": "/models/vitb.pth"}},
        },
        runtime={"device": "CPU", "precision": "FP32", "inputSize": 392, "maxQueuedRequests": 7},
        gpu={"count": 0},
        resources={"requests": {"cpu": "1500m"}},
    ) == {
        "DEPTH_SERVER_HOST": "0.0.0.0",  # noqa: S104 - compared, not bound
        "DEPTH_SERVER_PORT": "8000",
        "DEPTH_SERVER_MODEL_FAMILY": "DepthAnythingV2",
        "DEPTH_SERVER_MODEL_VARIANT": "ViTB14",
        "DEPTH_SERVER_WEIGHTS": "/models/vitb.pth",
        "DEPTH_SERVER_WEIGHTS_SHA256": "a" * 64,
        "DEPTH_SERVER_DEVICE": "cpu",
        "DEPTH_SERVER_PRECISION": "FP32",
        "DEPTH_SERVER_INPUT_SIZE": "392",
        "DEPTH_SERVER_MAX_QUEUED_REQUESTS": "7",
        "DEPTH_SERVER_CPU_THREADS": {
            "resourceFieldRef": {"containerName": "depth-server", "resource": "requests.cpu", "divisor": "1"}
        },
    }


def test_without_a_cpu_request_the_server_chooses_its_threads() -> None:
    assert "DEPTH_SERVER_CPU_THREADS" not in environment(resources={"limits": {"memory": "1Gi"}})


def test_a_claim_is_mounted_read_only_and_bundled_weights_need_no_volume() -> None:
    spec = pod_spec()
    assert {"name": "weights", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}} in spec["volumes"]
    assert {"name": "weights", "mountPath": "/weights", "readOnly": True} in spec["containers"][0]["volumeMounts"]
    assert environment()["DEPTH_SERVER_WEIGHTS"] == "/weights/a/model.safetensors"
    bundled = pod_spec(model={"source": {"imageBundled": {"path": "/models/x.pth"}}})
    assert [volume["name"] for volume in bundled["volumes"]] == ["tmp"]


def test_gpus_are_a_limit_and_none_leaves_no_trace() -> None:
    assert container(gpu={"count": 2, "resourceName": "nvidia.com/mig-1g.10gb"})["resources"]["limits"] == {
        "nvidia.com/mig-1g.10gb": "2"
    }
    without = container(gpu={"count": 0}, resources={"requests": {"cpu": 1}})["resources"]
    assert without == {"requests": {"cpu": "1"}}


def test_the_pod_satisfies_the_restricted_profile() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    spec = pod_spec()
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert spec["automountServiceAccountToken"] is False
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    for item in spec["containers"]:
        assert item["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume)


def test_replicas_are_absent_while_something_else_scales() -> None:
    assert "replicas" not in render_deployment(service(), server_image=IMAGE, replicas=None)["spec"]
    assert render_deployment(service(), server_image=IMAGE, replicas=3)["spec"]["replicas"] == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"runtime": {"inputSize": 392}},
        {"runtime": {"precision": "FP32"}},
        {"runtime": {"image": "other:1"}},
        {"gpu": {"count": 2}},
        {"resources": {"requests": {"cpu": "3"}}},
        {"model": {"variant": "ViTB14", "source": {"imageBundled": {"path": "/a.pth"}}}},
    ],
)
def test_what_the_pods_depend_on_changes_the_template(changed: dict[str, Any]) -> None:
    assert template(**changed) != template()


@pytest.mark.parametrize(
    "changed",
    [{"replicas": 5}, {"autoscaling": autoscaling(2, 9)}, {"expose": {"service": {"type": "NodePort", "port": 81}}}],
)
def test_what_the_pods_do_not_depend_on_leaves_the_template(changed: dict[str, Any]) -> None:
    assert template(**changed) == template()


def template(**spec: Any) -> dict[str, Any]:
    result: dict[str, Any] = render_deployment(service(**spec), server_image=IMAGE, replicas=1)["spec"]["template"]
    assert TEMPLATE_HASH_ANNOTATION in result["metadata"]["annotations"]
    return result


def test_every_child_is_controlled_by_its_service_and_labelled() -> None:
    owner = service(autoscaling=autoscaling())
    assert owner.spec.autoscaling is not None
    for child in (
        render_deployment(owner, server_image=IMAGE, replicas=None),
        render_service(owner),
        render_autoscaler(owner, owner.spec.autoscaling),
    ):
        (reference,) = child["metadata"]["ownerReferences"]
        assert reference["uid"] == UID
        assert reference["controller"] is True
        assert child["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "depth-operator"
        assert child["metadata"]["labels"]["app.kubernetes.io/instance"] == "depth"
        assert APPLIED_HASH_ANNOTATION in child["metadata"]["annotations"]


def test_the_service_sends_to_the_named_port_and_carries_the_users_annotations() -> None:
    exposed = render_service(
        service(
            expose={"service": {"type": "LoadBalancer", "port": 8080, "annotations": {"example.com/lb": "internal"}}}
        )
    )
    assert exposed["spec"]["type"] == "LoadBalancer"
    assert exposed["spec"]["ports"][0]["port"] == 8080
    assert exposed["spec"]["ports"][0]["targetPort"] == "http"
    assert exposed["metadata"]["annotations"]["example.com/lb"] == "internal"


def metrics(*declared: dict[str, Any]) -> list[str]:
    owner = service(autoscaling=autoscaling(1, 4, *declared))
    assert owner.spec.autoscaling is not None
    return [metric["type"] for metric in render_autoscaler(owner, owner.spec.autoscaling)["spec"]["metrics"]]


def test_the_autoscaler_reads_the_operators_decision_and_the_cpu_only_if_asked() -> None:
    gpu = {"type": "GPUUtilization", "targetPercent": 70}
    latency = {"type": "LatencyP95", "targetMilliseconds": 200}
    cpu = {"type": "CPUUtilization", "targetPercent": 60}
    assert metrics(gpu) == metrics(latency) == metrics(gpu, latency) == ["External"]
    assert metrics(gpu, cpu) == metrics(cpu, gpu) == ["External", "Resource"]
    assert metrics(cpu) == ["Resource"]


def test_the_autoscaler_adds_no_damping_to_the_operators() -> None:
    owner = service(autoscaling=autoscaling(2, 9))
    assert owner.spec.autoscaling is not None
    spec = render_autoscaler(owner, owner.spec.autoscaling)["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 9)
    for direction in ("scaleUp", "scaleDown"):
        assert spec["behavior"][direction]["stabilizationWindowSeconds"] == 0
        assert spec["behavior"][direction]["tolerance"] == "0"
    external = spec["metrics"][0]["external"]
    assert external["metric"] == {
        "name": "depthservice_desired_replicas",
        "selector": {"matchLabels": {"depthservice": "depth"}},
    }
    assert external["target"] == {"type": "AverageValue", "averageValue": "1"}


@given(st.integers(0, 8), st.sampled_from(["FP32", "FP16", "BF16"]), st.integers(9, 73), st.integers(1, 4096))
def test_rendering_is_a_function(count: int, precision: str, patches: int, queued: int) -> None:
    spec: dict[str, Any] = {
        "gpu": {"count": count},
        "runtime": {"precision": precision, "inputSize": patches * 14, "maxQueuedRequests": queued},
    }
    first = render_deployment(service(**spec), server_image=IMAGE, replicas=1)
    assert first == render_deployment(service(**spec), server_image=IMAGE, replicas=1)
