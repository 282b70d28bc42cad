"""Every rule of the CRD, accepted and refused by a real API server, which is what enforces them.

The last test walks the schema and asserts that no rule is without a case.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.apiserver.kubernetes_client import KubernetesClient, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
SCHEMA: dict[str, Any] = yaml.safe_load((ROOT / "crds/depthservices.yaml").read_text())["spec"]["versions"][0][
    "schema"
]["openAPIV3Schema"]
REMOVED = object()
"""As a value: the field is to be left out."""

CLAIM = {"persistentVolumeClaim": {"claimName": "weights", "path": "a.pth"}}
GPU70 = {"type": "GPUUtilization", "targetPercent": 70}


@dataclass(frozen=True)
class Case:
    """A change of a valid manifest.

    Attributes:
        field: Path of the field that the rule is about, as the API server reports it, without indices.
        rule: Keyword of the schema, or ``cel`` and the beginning of its message.
        change: Values by path.
        message: Part of the refusal; empty for what is accepted.
    """

    field: str
    rule: str
    change: dict[str, Any]
    message: str = ""

    def __str__(self) -> str:
        return f"{self.field}:{self.rule}"


def refused(field: str, rule: str, message: str, /, **change: Any) -> Case:
    return Case(field, rule, change.pop("change", None) or {field: change["value"]}, message)


def bounds(field: str, minimum: int, maximum: int, step: int = 1, **extra: Any) -> tuple[list[Case], list[Case]]:
    too_small = refused(
        field, "minimum", f"greater than or equal to {minimum}", change={**extra, field: minimum - step}
    )
    too_large = refused(field, "maximum", f"less than or equal to {maximum}", change={**extra, field: maximum + step})
    accepted = [Case(field, "bounds", {**extra, field: value}) for value in (minimum, maximum)]
    return [too_small, too_large], accepted


def enumeration(field: str, values: list[str], **extra: Any) -> tuple[list[Case], list[Case]]:
    wrong = [refused(field, "enum", "Unsupported value", change={**extra, field: values[0].lower() + "x"})]
    return wrong, [Case(field, "enum", {**extra, field: value}) for value in values]


def replicas_between(minimum: int, maximum: int) -> dict[str, Any]:
    return {"spec.autoscaling": {"minReplicas": minimum, "maxReplicas": maximum}}


AUTOSCALING = {"spec.autoscaling": {"maxReplicas": 1000}}
CPU_MACHINE = {"spec.gpu": {"count": 0}, "spec.runtime.precision": "FP32"}
PVC = "spec.model.source.persistentVolumeClaim"
METRIC = "spec.autoscaling.metrics"

TABLES = [
    enumeration("spec.model.family", ["DepthAnything", "DepthAnythingV2"]),
    enumeration("spec.model.variant", ["ViTS14", "ViTB14", "ViTL14"]),
    enumeration("spec.runtime.imagePullPolicy", ["Always", "IfNotPresent", "Never"]),
    enumeration("spec.runtime.device", ["Auto", "CUDA"]),
    enumeration("spec.runtime.precision", ["FP32", "FP16", "BF16"]),
    enumeration("spec.expose.service.type", ["ClusterIP", "NodePort", "LoadBalancer"]),
    bounds("spec.runtime.inputSize", 126, 1022, 14),
    bounds("spec.runtime.maxQueuedRequests", 1, 4096),
    bounds("spec.gpu.count", 0, 8, **{"spec.runtime.precision": "FP32"}),
    bounds("spec.replicas", 0, 1000),
    bounds("spec.autoscaling.minReplicas", 1, 1000, **AUTOSCALING),
    bounds("spec.autoscaling.maxReplicas", 1, 1000),
    bounds("spec.expose.service.port", 1, 65535),
]

REFUSED = [
    *(case for wrong, _ in TABLES for case in wrong),
    refused("spec.model.variant", "cel ViTT14 exists", "DepthAnythingV2 only", change={"spec.model.variant": "ViTT14"}),
    refused("spec", "required", "Required value", value=REMOVED),
    refused("spec.model", "required", "Required value", value=REMOVED),
    refused("spec.model.source", "required", "Required value", value=REMOVED),
    refused("metadata.name", "cel must have at most", "at most 50 characters", value="a" * 51),
    refused("metadata.name", "cel must have at most", "begin with a letter", value="1depth"),
    refused("metadata.name", "cel must have at most", "its Service has the same name", value="depth.v1"),
    refused("spec.model.source", "cel exactly one", "exactly one of", value={}),
    refused(
        "spec.model.source", "cel exactly one", "exactly one of", value={**CLAIM, "imageBundled": {"path": "/a.pth"}}
    ),
    refused(
        f"{PVC}.claimName",
        "required",
        "Required value",
        change={"spec.model.source": {"persistentVolumeClaim": {"path": "a.pth"}}},
    ),
    refused(
        f"{PVC}.path",
        "required",
        "Required value",
        change={"spec.model.source": {"persistentVolumeClaim": {"claimName": "a"}}},
    ),
    refused(
        f"{PVC}.claimName", "minLength", "at least 1 chars", change={"spec.model.source": CLAIM, f"{PVC}.claimName": ""}
    ),
    refused(
        f"{PVC}.claimName", "maxLength", "Too long", change={"spec.model.source": CLAIM, f"{PVC}.claimName": "a" * 254}
    ),
    refused(
        f"{PVC}.claimName",
        "pattern",
        "should match",
        change={"spec.model.source": CLAIM, f"{PVC}.claimName": "Weights_1"},
    ),
    refused(f"{PVC}.path", "minLength", "at least 1 chars", change={"spec.model.source": CLAIM, f"{PVC}.path": ""}),
    refused(
        f"{PVC}.path", "maxLength", "Too long", change={"spec.model.source": CLAIM, f"{PVC}.path": "a" * 509 + ".pth"}
    ),
    refused(
        f"{PVC}.path", "pattern", "should match", change={"spec.model.source": CLAIM, f"{PVC}.path": "/absolute.pth"}
    ),
    refused(f"{PVC}.path", "pattern", "should match", change={"spec.model.source": CLAIM, f"{PVC}.path": "model.onnx"}),
    refused(
        f"{PVC}.path",
        "cel must not contain",
        "must not contain '..'",
        change={"spec.model.source": CLAIM, f"{PVC}.path": "a/../../b.pth"},
    ),
    refused(
        "spec.model.source.imageBundled.path",
        "required",
        "Required value",
        change={"spec.model.source": {"imageBundled": {}}},
    ),
    refused("spec.model.source.imageBundled.path", "minLength", "at least 1 chars", value=""),
    refused("spec.model.source.imageBundled.path", "maxLength", "Too long", value="/" + "a" * 508 + ".pth"),
    refused("spec.model.source.imageBundled.path", "pattern", "should match", value="relative.pth"),
    refused(
        "spec.model.source.imageBundled.path",
        "cel must not contain",
        "must not contain '..'",
        value="/models/../etc/x.pth",
    ),
    refused("spec.model.sha256", "pattern", "should match", value="A" * 64),
    refused("spec.model.sha256", "pattern", "should match", value="a" * 63),
    refused("spec.model.sha256", "maxLength", "Too long", value="a" * 65),
    refused("spec.runtime.image", "minLength", "at least 1 chars", value=""),
    refused("spec.runtime.image", "maxLength", "Too long", value="a" * 513),
    refused("spec.runtime.image", "pattern", "should match", value="image with spaces"),
    refused(
        "spec.runtime.imagePullSecrets", "maxItems", "at most 8 items", value=[{"name": f"s{n}"} for n in range(9)]
    ),
    refused(
        "spec.runtime.imagePullSecrets",
        "x-kubernetes-list-type",
        "Duplicate value",
        value=[{"name": "a"}, {"name": "a"}],
    ),
    refused(
        "spec.runtime.imagePullSecrets.name",
        "required",
        "Required value",
        change={"spec.runtime.imagePullSecrets": [{}]},
    ),
    refused(
        "spec.runtime.imagePullSecrets.name",
        "minLength",
        "at least 1 chars",
        change={"spec.runtime.imagePullSecrets": [{"name": ""}]},
    ),
    refused(
        "spec.runtime.imagePullSecrets.name",
        "maxLength",
        "Too long",
        change={"spec.runtime.imagePullSecrets": [{"name": "a" * 254}]},
    ),
    refused(
        "spec.runtime.imagePullSecrets.name",
        "pattern",
        "should match",
        change={"spec.runtime.imagePullSecrets": [{"name": "A_"}]},
    ),
    refused("spec.runtime.inputSize", "cel must be a multiple", "must be a multiple of 14", value=519),
    refused(
        "spec.runtime.precision",
        "cel FP16 needs",
        "use FP32",
        change={"spec.runtime.device": "CPU", "spec.gpu.count": 0},
    ),
    refused("spec.runtime.precision", "cel FP16 needs", "use FP32", change={"spec.gpu.count": 0}),
    refused(
        "spec.gpu.count",
        "cel must be 0",
        "never used",
        change={"spec.runtime.device": "CPU", "spec.runtime.precision": "FP32"},
    ),
    refused("spec.gpu.count", "cel must be at least 1", "CUDA", change={**CPU_MACHINE, "spec.runtime.device": "CUDA"}),
    refused("spec.gpu.resourceName", "maxLength", "Too long", value="example.com/" + "a" * 242),
    refused("spec.gpu.resourceName", "pattern", "should match", value="gpu"),
    refused(
        "spec.replicas",
        "cel must not be set",
        "remove one of the two",
        change={"spec.replicas": 2, **replicas_between(1, 2)},
    ),
    refused("spec.autoscaling.maxReplicas", "required", "Required value", change={"spec.autoscaling": {}}),
    refused("spec.autoscaling.minReplicas", "cel must not be greater", "maxReplicas", change=replicas_between(3, 2)),
    refused(METRIC, "minItems", "at least 1 items", change={**AUTOSCALING, METRIC: []}),
    refused(METRIC, "maxItems", "at most 3 items", change={**AUTOSCALING, METRIC: [GPU70] * 4}),
    refused(METRIC, "x-kubernetes-list-type", "Duplicate value", change={**AUTOSCALING, METRIC: [GPU70, GPU70]}),
    refused(f"{METRIC}.type", "required", "Required value", change={**AUTOSCALING, METRIC: [{"targetPercent": 70}]}),
    refused(
        f"{METRIC}.type",
        "enum",
        "Unsupported value",
        change={**AUTOSCALING, METRIC: [{"type": "Memory", "targetPercent": 70}]},
    ),
    refused(
        f"{METRIC}.targetPercent",
        "minimum",
        "greater than or equal to 1",
        change={**AUTOSCALING, METRIC: [{**GPU70, "targetPercent": 0}]},
    ),
    refused(
        f"{METRIC}.targetPercent",
        "maximum",
        "less than or equal to 100",
        change={**AUTOSCALING, METRIC: [{**GPU70, "targetPercent": 101}]},
    ),
    refused(
        f"{METRIC}.targetMilliseconds",
        "minimum",
        "greater than or equal to 1",
        change={**AUTOSCALING, METRIC: [{"type": "LatencyP95", "targetMilliseconds": 0}]},
    ),
    refused(
        f"{METRIC}.targetMilliseconds",
        "maximum",
        "less than or equal to 600000",
        change={**AUTOSCALING, METRIC: [{"type": "LatencyP95", "targetMilliseconds": 600001}]},
    ),
    refused(
        METRIC,
        "cel GPUUtilization and",
        "need targetPercent",
        change={**AUTOSCALING, METRIC: [{"type": "GPUUtilization"}]},
    ),
    refused(
        METRIC,
        "cel GPUUtilization and",
        "LatencyP95 needs targetMilliseconds",
        change={**AUTOSCALING, METRIC: [{"type": "LatencyP95"}]},
    ),
    refused(
        METRIC,
        "cel targetPercent belongs",
        "belongs to",
        change={**AUTOSCALING, METRIC: [{**GPU70, "targetMilliseconds": 5}]},
    ),
    refused(
        METRIC,
        "cel targetPercent belongs",
        "belongs to",
        change={**AUTOSCALING, METRIC: [{"type": "LatencyP95", "targetMilliseconds": 5, "targetPercent": 5}]},
    ),
    refused(
        "spec.resources",
        "cel resources.requests.cpu",
        "resources.requests.cpu must be set",
        change={
            "spec.resources": {"requests": {"memory": "1Gi"}},
            "spec.autoscaling": {"maxReplicas": 2, "metrics": [{"type": "CPUUtilization", "targetPercent": 50}]},
        },
    ),
    refused(
        "spec.resources.requests",
        "cel must not exceed",
        "must not exceed the limit",
        change={"spec.resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1024Mi"}}},
    ),
    *(
        refused(f"spec.resources.{kind}", rule, message, change={"spec.resources": {kind: value}})
        for kind in ("requests", "limits")
        for rule, message, value in (
            ("maxProperties", "at most 3 items", {"cpu": 1, "memory": 1, "ephemeral-storage": 1, "x": 1}),
            ("cel only cpu", "use spec.gpu for GPUs", {"nvidia.com/gpu": 1}),
        )
    ),
    *(
        refused(f"spec.resources.{kind}.cpu", rule, message, change={"spec.resources": {kind: {"cpu": value}}})
        for kind in ("requests", "limits")
        for rule, message, value in (
            ("maxLength", "Too long", "1" * 33),
            ("pattern", "should match", "-1"),
            ("pattern", "should match", "many"),
        )
    ),
    refused(
        "spec.expose.service.annotations", "maxProperties", "at most 32 items", value={f"a{n}": "" for n in range(33)}
    ),
    refused(
        "spec.expose.service.annotations",
        "cel keys that begin",
        "belong to the operator",
        value={"depthserving.dev/x": ""},
    ),
    refused(
        "spec.expose.service.annotations.a",
        "maxLength",
        "Too long",
        change={"spec.expose.service.annotations": {"a": "x" * 4097}},
    ),
]

ACCEPTED = [
    *(case for _, right in TABLES for case in right),
    Case("spec", "required", {}),
    Case("metadata.name", "cel must have at most", {"metadata.name": "a" * 50}),
    Case(
        PVC,
        "pattern",
        {"spec.model.source": {"persistentVolumeClaim": {"claimName": "w.1-a", "path": "sub/dir/v..2_x.safetensors"}}},
    ),
    Case("spec.model.sha256", "pattern", {"spec.model.sha256": "0123456789abcdef" * 4}),
    Case(
        "spec.runtime.image",
        "pattern",
        {"spec.runtime.image": "registry.example.com:5000/a/b_c:1.0@sha256:" + "a" * 64},
    ),
    Case(
        "spec.runtime.imagePullSecrets",
        "maxItems",
        {"spec.runtime.imagePullSecrets": [{"name": f"s{n}"} for n in range(8)]},
    ),
    Case("spec.runtime.inputSize", "cel must be a multiple", {"spec.runtime.inputSize": 518}),
    Case(
        "spec.runtime.device", "cel CPU", {"spec.runtime": {"device": "CPU", "precision": "BF16"}, "spec.gpu.count": 0}
    ),
    Case("spec.gpu.resourceName", "pattern", {"spec.gpu.resourceName": "nvidia.com/mig-1g.10gb"}),
    Case(
        METRIC,
        "all",
        {
            "spec.autoscaling": {
                "maxReplicas": 1,
                "metrics": [
                    {"type": "GPUUtilization", "targetPercent": 1},
                    {"type": "CPUUtilization", "targetPercent": 100},
                    {"type": "LatencyP95", "targetMilliseconds": 600000},
                ],
            }
        },
    ),
    Case(
        "spec.resources",
        "quantities",
        {"spec.resources": {"requests": {"cpu": 1, "memory": "1.5Gi"}, "limits": {"cpu": "1000m", "memory": "1536Mi"}}},
    ),
    Case("spec.resources", "empty", {"spec.resources": {}}),
    Case(
        "spec.expose.service.annotations",
        "annotations",
        {"spec.expose.service.annotations": {"example.com/lb": "x" * 4096}},
    ),
]


def manifest(namespace: str, change: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "apiVersion": "depthserving.dev/v1alpha1",
        "kind": "DepthService",
        "metadata": {"name": "depth", "namespace": namespace},
        "spec": {"model": {"source": {"imageBundled": {"path": "/models/a.pth"}}}},
    }
    for path, value in change.items():
        *parents, last = path.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is REMOVED:
            del node[last]
        else:
            node[last] = copy.deepcopy(value)
    return result


def create(client: KubernetesClient, change: dict[str, Any]) -> dict[str, Any]:
    return client.create(
        "depthservices", manifest("default", change), "default", dryRun="All", fieldValidation="Strict"
    )


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_accepted(client: KubernetesClient, case: Case) -> None:
    assert create(client, case.change)["kind"] == "DepthService"


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_refused_with_the_path_of_the_field(client: KubernetesClient, case: Case) -> None:
    with pytest.raises(RefusedError) as refusal:
        create(client, case.change)
    assert refusal.value.status == 422, refusal.value
    told = {(re.sub(r"\[\w*\]", "", cause["field"]), cause["message"]) for cause in refusal.value.causes}
    assert any(field == case.field and case.message in message for field, message in told), told


def test_an_unknown_field_is_refused_and_not_dropped(client: KubernetesClient) -> None:
    with pytest.raises(RefusedError, match=r'unknown field "spec\.runtime\.precison"'):
        create(client, {"spec.runtime.precison": "FP32"})


def test_defaults_are_in_the_schema(client: KubernetesClient) -> None:
    spec = create(client, {"spec.autoscaling": {"maxReplicas": 3}})["spec"]
    assert spec == {
        "model": {
            "family": "DepthAnything",
            "variant": "ViTL14",
            "source": {"imageBundled": {"path": "/models/a.pth"}},
        },
        "runtime": {
            "device": "Auto",
            "precision": "FP16",
            "inputSize": 518,
            "maxQueuedRequests": 64,
            "imagePullPolicy": "IfNotPresent",
        },
        "resources": {"requests": {"cpu": "1", "memory": "4Gi"}},
        "gpu": {"resourceName": "nvidia.com/gpu", "count": 1},
        "expose": {"service": {"type": "ClusterIP", "port": 80}},
        "autoscaling": {
            "minReplicas": 1,
            "maxReplicas": 3,
            "metrics": [{"type": "GPUUtilization", "targetPercent": 70}],
        },
    }


@pytest.mark.parametrize("example", ["depthservice.yaml", "depthservice-vitl14.yaml"])
def test_the_examples_are_accepted(client: KubernetesClient, example: str) -> None:
    body = yaml.safe_load((ROOT / "examples" / example).read_text())
    client.create("depthservices", body, "default", dryRun="All", fieldValidation="Strict")


def test_scale_writes_the_replicas_and_is_refused_while_something_else_scales(
    client: KubernetesClient, namespace: str
) -> None:
    client.create("depthservices", manifest(namespace, {}), namespace)
    client.merge("depthservices", namespace, "depth", {"spec": {"replicas": 3}}, "scale")
    scaled = client.get("depthservices", namespace, "depth")
    assert scaled is not None
    assert scaled["spec"]["replicas"] == 3
    client.merge("depthservices", namespace, "depth", {"spec": {"replicas": None, "autoscaling": {"maxReplicas": 2}}})
    with pytest.raises(
        RefusedError, match=r"spec\.replicas: Forbidden: must not be set together with spec\.autoscaling"
    ):
        client.merge("depthservices", namespace, "depth", {"spec": {"replicas": 3}}, "scale")


def test_the_schema_is_small() -> None:
    """Above 256 KiB a client-side ``kubectl apply`` fails; comparable resources take up to 2 MB."""
    assert len((ROOT / "crds/depthservices.yaml").read_bytes()) < 60_000


def rules(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Every rule of a schema as the field that it speaks about and its keyword, named as in `Case`."""
    for keyword in (
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
    ):
        if keyword in schema:
            yield path, keyword
    if schema.get("x-kubernetes-list-type") == "map":
        yield path, "x-kubernetes-list-type"
    for rule in schema.get("x-kubernetes-validations", []):
        yield path + rule.get("fieldPath", ""), f"cel {rule['message']}"
    for name in schema.get("required", []):
        yield f"{path}.{name}", "required"
    for name, child in schema.get("properties", {}).items():
        yield from rules(child, f"{path}.{name}")
    if "items" in schema:
        yield from rules(schema["items"], path)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from rules(schema["additionalProperties"], f"{path}.*")


def test_every_rule_has_a_case() -> None:
    declared = {(field.lstrip("."), rule) for field, rule in rules(SCHEMA, "") if not field.startswith(".status")}
    declared.discard(("metadata.name", "maxLength"))  # bounds the cost of the CEL rule; names cannot be longer anyway
    missing = [
        (field, rule) for field, rule in sorted(declared) if not any(covers(case, field, rule) for case in REFUSED)
    ]
    assert missing == []


def covers(case: Case, field: str, rule: str) -> bool:
    wildcard = re.fullmatch(re.escape(field).replace(r"\*", r"[^.]+"), case.field)
    return wildcard is not None and (rule.startswith(case.rule) if case.rule.startswith("cel ") else rule == case.rule)
