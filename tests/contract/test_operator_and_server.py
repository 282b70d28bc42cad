"""Operator and server share no code; both are held against `docs/reference/contract.md`, and so against each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from depth_operator.api import v1alpha1
from depth_operator.api.v1alpha1 import DepthService
from depth_operator.diagnosis import SERVER_REASONS
from depth_operator.render import render_deployment
from depth_operator.scaling import queries
from depth_server.admission import Admission
from depth_server.batch_queue import BatchPolicy
from depth_server.engine import CLOSE_TIMEOUT_SECONDS
from depth_server.errors import Outcome, StartupReason
from depth_server.metrics import ServerMetrics
from depth_server.model.variants import FAMILIES, ModelFamily, ModelVariant, model_spec
from depth_server.settings import Settings
from depth_server.thread_engine import ThreadEngine

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = (ROOT / "docs/reference/contract.md").read_text()
CRD = yaml.safe_load((ROOT / "crds/depthservices.yaml").read_text())
SPEC_SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


def depth_service(**spec: Any) -> DepthService:
    """A DepthService with every optional member that reaches the container."""
    source = {"persistentVolumeClaim": {"claimName": "weights", "path": "model.safetensors"}}
    model = {"family": "DepthAnything", "variant": "ViTS14", "source": source, "sha256": "0" * 64} | spec.pop(
        "model", {}
    )
    return DepthService.parse(
        {
            "apiVersion": "depthserving.dev/v1alpha1",
            "kind": "DepthService",
            "metadata": {"name": "a", "namespace": "b", "uid": "c", "generation": 1, "resourceVersion": "1"},
            "spec": {"model": model, "resources": {"requests": {"cpu": "2"}}, **spec},
        }
    )


def container(service: DepthService) -> dict[str, Any]:
    """The server's container as the operator renders it."""
    deployment = render_deployment(service, server_image="image", replicas=None)
    rendered: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return rendered


def environment(service: DepthService) -> dict[str, str]:
    """Literal values of the rendered environment."""
    return {item["name"]: item["value"] for item in container(service)["env"] if "value" in item}


def contract_environment() -> dict[str, str]:
    """Variable to default, as section 1 of the contract has them."""
    rows = re.findall(r"^\| `(DEPTH_SERVER_[A-Z0-9_]+)` \| [^|]* \| ([^|]*) \|", CONTRACT, re.MULTILINE)
    return {name: default.strip() for name, default in rows}


def contract_metrics() -> set[str]:
    """Names in the first column of section 2's table."""
    section = CONTRACT.split("## 2. Metrics")[1].split("## 3.")[0]
    cells = re.findall(r"^\| (`depth_server[^|]*) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(depth_server_[a-z_]+)", cell)}


def exported_metrics(*, with_faces: bool = False) -> dict[str, set[str]]:
    """Metric name, as a query names it, to the label names that the server gives it."""
    metrics = ServerMetrics(CollectorRegistry())
    metrics.set_info(version="v", model="m", device="cpu", precision="FP32")
    engine = ThreadEngine(
        lambda: pytest.fail("not started"),
        policy=BatchPolicy(max_waiting=1),
        max_consecutive_failures=1,
        on_crash=print,
    )
    admission = Admission(max_requests=1, max_upload_bytes=1, max_inflight_upload_bytes=1)
    metrics.expose_load(engine, admission, with_faces=with_faces)
    metrics.count_request(Outcome.SUCCESS)
    exported: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exported[name] = labels
    return exported


def test_the_server_reads_every_variable_of_the_contract_with_its_default() -> None:
    fields = Settings.model_fields
    for variable, default in contract_environment().items():
        field = fields[variable.removeprefix("DEPTH_SERVER_").lower()]
        if "required" in default:
            assert field.default is None, variable
        elif default.startswith("empty"):
            assert field.default == "", variable
        else:
            assert str(field.default) == default.split("`")[1], variable


def test_the_server_has_no_weights_unless_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPTH_SERVER_WEIGHTS", raising=False)
    with pytest.raises(ValidationError, match="DEPTH_SERVER_WEIGHTS is not set"):
        Settings()


def test_the_operator_sets_only_variables_of_the_contract() -> None:
    rendered = {item["name"] for item in container(depth_service())["env"]}
    assert rendered <= set(contract_environment())
    assert set(contract_environment()) - rendered == {"DEPTH_SERVER_TERMINATION_MESSAGE_PATH"}


@pytest.mark.parametrize(
    ("device", "precision", "gpus"), [("CPU", "FP32", 0), ("Auto", "BF16", 0), ("CUDA", "FP16", 1), ("Auto", "FP16", 1)]
)
def test_the_server_accepts_the_values_that_the_operator_renders(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, gpus: int
) -> None:
    runtime = {"device": device, "precision": precision, "inputSize": 392, "maxQueuedRequests": 7}
    for name, value in environment(depth_service(runtime=runtime, gpu={"count": gpus})).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.device.value == device.lower()
    assert settings.precision.value == precision
    assert settings.input_size == 392
    assert settings.max_queued_requests == 7
    assert settings.port == container(depth_service())["ports"][0]["containerPort"]


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        (ModelFamily(family.value), variant)
        for family in v1alpha1.Family
        for variant in FAMILIES[ModelFamily(family.value)].names
    ],
)
def test_both_sides_call_a_model_by_the_same_name(family: ModelFamily, variant: ModelVariant) -> None:
    service = depth_service(model={"family": family.value, "variant": variant.value})
    assert service.spec.model.name == model_spec(family, variant).name


def test_the_server_knows_every_family_of_the_api_and_the_same_variants() -> None:
    model = SPEC_SCHEMA["model"]["properties"]
    assert model["family"]["enum"] == [member.value for member in v1alpha1.Family]
    assert set(model["family"]["enum"]) <= {family.value for family in ModelFamily}
    assert model["variant"]["enum"] == [variant.value for variant in ModelVariant]
    assert [member.value for member in v1alpha1.Variant] == [variant.value for variant in ModelVariant]


def test_the_api_allows_the_input_sizes_that_the_server_takes() -> None:
    schema = SPEC_SCHEMA["runtime"]["properties"]["inputSize"]
    bounds = {type(item).__name__: item for item in Settings.model_fields["input_size"].metadata}
    assert (schema["minimum"], schema["maximum"]) == (bounds["Ge"].ge, bounds["Le"].le)
    assert bounds["MultipleOf"].multiple_of == 14
    assert schema["default"] == Settings.model_fields["input_size"].default


def test_the_server_exports_the_metrics_of_the_contract() -> None:
    on_cpu = contract_metrics() - {"depth_server_gpu_busy_seconds_total"}
    assert set(exported_metrics(with_faces=True)) == on_cpu


def test_the_operator_queries_only_metrics_of_the_contract() -> None:
    assert set(queries.METRICS) <= contract_metrics()
    asked = set(re.findall(r"depth_server_[a-z_]+", queries.signals_query(queries.Scope("n", "s", 60, 45.0))))
    assert {name.removesuffix("_bucket") for name in asked} <= contract_metrics()


def test_invalid_is_an_outcome_that_the_server_counts_apart() -> None:
    matched = re.fullmatch(r'outcome!="(\w+)"', queries.DEMAND)
    assert matched is not None
    assert matched[1] == Outcome.INVALID.value
    assert exported_metrics()["depth_server_requests_total"] == {"outcome"}
    documented = re.search(r"offered requests\. (.*)\|", CONTRACT)
    assert documented is not None
    assert {outcome.value for outcome in Outcome} == set(re.findall(r"`(\w+)`", documented[1]))


def test_the_operator_has_a_remedy_for_every_reason_that_the_server_may_give() -> None:
    documented = re.search(r"Reasons: (.*?)\. The operator", CONTRACT)
    assert documented is not None
    reasons = set(re.findall(r"`(\w+)`", documented[1]))
    assert reasons == set(SERVER_REASONS)
    assert reasons <= {reason.value for reason in StartupReason}


def test_probes_ask_paths_that_the_server_documents() -> None:
    rendered = container(depth_service())
    paths = {rendered[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"/healthz", "/readyz"}
    folder = ROOT / "inference_server/depth_server/routes"
    source = "".join(path.read_text() for path in sorted(folder.glob("*.py")))
    for path in (*paths, "/metrics", "/predict"):
        assert f'"{path}"' in source
        assert path in CONTRACT


def test_the_pod_lives_long_enough_to_drain() -> None:
    deployment = render_deployment(depth_service(), server_image="image", replicas=None)
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    fields = Settings.model_fields
    drain = fields["drain_delay_seconds"].default + fields["drain_seconds"].default + CLOSE_TIMEOUT_SECONDS
    assert grace > drain
    # Under a backlog every second that is not used is a second's worth of accepted requests answered with 503.
    assert grace - drain <= CLOSE_TIMEOUT_SECONDS
