"""What the chart renders, by the real helm."""

from __future__ import annotations

import base64
import re
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509

from depth_operator.api.naming import HTTP_PORT_NAME, child_labels
from depth_operator.settings import Settings
from tests.chart.rendering import (
    CHART,
    HELM,
    NAMESPACE,
    RELEASE,
    ROOT,
    Manifest,
    find,
    helm,
    of_kind,
    render,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    HELM is None, reason="no helm in KUBEBUILDER_ASSETS, on PATH or in the cache; `python -m localcluster up` builds it"
)

METRICS_API = "depth-operator-metrics-api"
SETTINGS = ROOT / "docs" / "reference" / "operator-settings.md"


@pytest.fixture
def defaults(tmp_path: Path) -> list[Manifest]:
    return render(tmp_path)


def environment(deployment: Manifest) -> dict[str, str | None]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item.get("value") for item in container["env"]}


@pytest.mark.parametrize("values", sorted(CHART.glob("ci/*.yaml")), ids=lambda path: path.stem)
def test_lint(values: Path, tmp_path: Path) -> None:
    result = helm("lint", "--strict", str(CHART), "--values", str(values), folder=tmp_path)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("name", "subcommand", "replicas"), [(RELEASE, "run", 1), (METRICS_API, "metrics-api", 2)])
def test_deployments(defaults: list[Manifest], name: str, subcommand: str, replicas: int) -> None:
    deployment = find(defaults, "Deployment", name)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]

    assert deployment["spec"]["replicas"] == replicas
    assert container["args"] == [subcommand]
    assert "command" not in container
    assert container["image"] == f"ghcr.io/depthserving/depth-operator:{version}"
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
    assert set(deployment["spec"]["selector"]["matchLabels"].items()) <= set(
        deployment["spec"]["template"]["metadata"]["labels"].items()
    )


def test_the_version_is_that_of_the_distribution() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)

    assert version is not None
    assert chart["appVersion"] == chart["version"] == version[1]


def test_every_pod_is_restricted(defaults: list[Manifest]) -> None:
    """Pod security profile "restricted", and a read-only root."""
    for deployment in of_kind(defaults, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all("hostPath" not in volume for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


def test_every_variable_is_a_setting(tmp_path: Path) -> None:
    settings = {f"DEPTH_OPERATOR_{field.upper()}" for field in Settings.model_fields}
    for deployment in of_kind(render(tmp_path, "--set", "watchNamespace=vision"), "Deployment"):
        assert environment(deployment).keys() <= settings


def test_values_reach_the_operator(tmp_path: Path) -> None:
    manifests = render(tmp_path, "--values", str(CHART / "ci" / "local-values.yaml"))
    variables = environment(find(manifests, "Deployment", RELEASE))

    assert variables["DEPTH_OPERATOR_PROMETHEUS_ADDRESS"] == "http://prometheus.monitoring.svc:9090"
    assert variables["DEPTH_OPERATOR_STABILIZATION_WINDOW_SECONDS"] == "30"
    assert variables["DEPTH_OPERATOR_METRICS_WINDOW_SECONDS"] == "15"
    assert variables["DEPTH_OPERATOR_HOST"] == "0.0.0.0"  # noqa: S104 - the pod's own network
    assert find(manifests, "Deployment", METRICS_API)["spec"]["replicas"] == 1


def test_the_process_asks_for_the_lease_that_its_role_names(tmp_path: Path) -> None:
    other = ("operator.extraEnv[0].name=DEPTH_OPERATOR_LEASE_NAME", "operator.extraEnv[0].value=other")
    manifests = render(tmp_path, "--set", ",".join(other))
    rules = find(manifests, "Role", f"{RELEASE}-leader")["rules"]

    asked = environment(find(manifests, "Deployment", RELEASE))["DEPTH_OPERATOR_LEASE_NAME"]
    assert [name for rule in rules for name in rule.get("resourceNames", [])] == [asked]


def test_disruption_budgets_only_where_a_pod_may_go(tmp_path: Path) -> None:
    def budgets(*arguments: str) -> set[str]:
        return {item["metadata"]["name"] for item in of_kind(render(tmp_path, *arguments), "PodDisruptionBudget")}

    assert budgets() == {METRICS_API}
    assert budgets("--set", "metricsApi.replicas=1") == set()
    assert budgets("--set", "operator.replicas=2") == {METRICS_API, RELEASE}


def granted(*roles: Manifest) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def documented_permissions(scope: str) -> set[tuple[str, str, str]]:
    """The table of the settings' page for one scope."""
    rows = re.findall(r"^\| (\w) \| (\S+) \| `(\S+)` \| ([a-z, ]+) \|", SETTINGS.read_text(), flags=re.MULTILINE)
    return {
        ("" if group == "core" else group.strip("`"), resource, verb)
        for row_scope, group, resource, verbs in rows
        if row_scope == scope
        for verb in verbs.split(", ")
    }


class TestPermissions:
    def test_no_wildcard_no_secret_no_escalation(self, defaults: list[Manifest]) -> None:
        permissions = granted(*of_kind(defaults, "Role", "ClusterRole"))

        assert all("*" not in permission for permission in permissions)
        assert not {resource for _, resource, _ in permissions} & {"secrets", "roles", "clusterroles", "pods/exec"}
        assert not {verb for _, _, verb in permissions} & {"escalate", "bind", "impersonate"}

    def test_the_operator_has_what_is_documented_and_nothing_else(self, defaults: list[Manifest]) -> None:
        assert documented_permissions("D"), "the table is found"
        assert granted(find(defaults, "ClusterRole", RELEASE)) == documented_permissions("D")
        assert granted(find(defaults, "Role", f"{RELEASE}-leader")) == documented_permissions("L")

    def test_the_metrics_api_reads_and_asks(self, defaults: list[Manifest]) -> None:
        review = find(defaults, "ClusterRole", f"{METRICS_API}-access-review")

        assert granted(find(defaults, "ClusterRole", METRICS_API), review) == {
            ("depthserving.dev", "depthservices", "list"),
            ("depthserving.dev", "depthservices", "watch"),
            ("authorization.k8s.io", "subjectaccessreviews", "create"),
        }
        reader = find(defaults, "RoleBinding", f"{METRICS_API}-authentication-reader")
        assert reader["metadata"]["namespace"] == "kube-system"
        assert reader["roleRef"]["name"] == "extension-apiserver-authentication-reader"

    def test_the_autoscaler_may_read_the_metric(self, defaults: list[Manifest]) -> None:
        binding = find(defaults, "ClusterRoleBinding", f"{METRICS_API}-reader")
        role = find(defaults, "ClusterRole", binding["roleRef"]["name"])

        assert granted(role) == {("external.metrics.k8s.io", "depthservice_desired_replicas", "list")}
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}
        ]

    def test_one_namespace_needs_no_cluster_wide_reading(self, tmp_path: Path) -> None:
        manifests = render(tmp_path, "--set", "watchNamespace=vision", "--set", "rbac.aggregate=false")
        bound = {item["roleRef"]["name"] for item in of_kind(manifests, "ClusterRoleBinding")}

        assert bound == {f"{METRICS_API}-access-review"}
        assert find(manifests, "Role", RELEASE)["metadata"]["namespace"] == "vision"
        for deployment in of_kind(manifests, "Deployment"):
            assert environment(deployment)["DEPTH_OPERATOR_WATCH_NAMESPACE"] == "vision"

    def test_every_role_is_bound_to_an_account_that_exists(self, defaults: list[Manifest]) -> None:
        accounts = {item["metadata"]["name"] for item in of_kind(defaults, "ServiceAccount")}
        roles = {(item["kind"], item["metadata"]["name"]) for item in of_kind(defaults, "Role", "ClusterRole")}
        for binding in of_kind(defaults, "RoleBinding", "ClusterRoleBinding"):
            reference = binding["roleRef"]
            assert (reference["kind"], reference["name"]) in roles or reference["name"].startswith("extension-")
            for subject in binding["subjects"]:
                assert subject["namespace"] == "kube-system" or subject["name"] in accounts
        used = {item["spec"]["template"]["spec"]["serviceAccountName"] for item in of_kind(defaults, "Deployment")}
        assert used == accounts

    def test_users_roles_cover_depth_services(self, defaults: list[Manifest], tmp_path: Path) -> None:
        view, edit = (find(defaults, "ClusterRole", f"{RELEASE}-{name}") for name in ("view", "edit"))

        assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
        assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
        assert {verb for _, _, verb in granted(view)} == {"get", "list", "watch"}
        assert not [
            label
            for item in render(tmp_path, "--set", "rbac.aggregate=false")
            for label in item["metadata"].get("labels", {})
            if "aggregate" in label
        ]


class TestMetricsApi:
    def test_the_certificate_is_for_the_service_and_from_the_bundle(self, defaults: list[Manifest]) -> None:
        api_service = find(defaults, "APIService", "v1beta1.external.metrics.k8s.io")
        secret = find(defaults, "Secret", f"{METRICS_API}-tls")
        service = find(defaults, "Service", METRICS_API)
        authority = x509.load_pem_x509_certificate(base64.b64decode(api_service["spec"]["caBundle"]))
        certificate = x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["tls.crt"]))

        assert api_service["spec"]["service"] == {"name": METRICS_API, "namespace": NAMESPACE, "port": 443}
        assert secret["data"]["ca.crt"] == api_service["spec"]["caBundle"]
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert f"{METRICS_API}.{NAMESPACE}.svc" in names.get_values_for_type(x509.DNSName)
        assert service["spec"]["ports"] == [{"name": "https", "port": 443, "targetPort": "https"}]
        pod_labels = find(defaults, "Deployment", METRICS_API)["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= pod_labels.items()

    def test_the_certificate_can_be_served(self, defaults: list[Manifest], tmp_path: Path) -> None:
        data = find(defaults, "Secret", f"{METRICS_API}-tls")["data"]
        for name in ("tls.crt", "tls.key"):
            (tmp_path / name).write_bytes(base64.b64decode(data[name]))

        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")

    def test_an_own_certificate(self, tmp_path: Path, defaults: list[Manifest]) -> None:
        authority = base64.b64decode(find(defaults, "Secret", f"{METRICS_API}-tls")["data"]["ca.crt"])
        (tmp_path / "ca.crt").write_bytes(authority)
        manifests = render(
            tmp_path, "--set", "metricsApi.tls.existingSecret=mine",
            "--set-file", f"metricsApi.tls.caBundle={tmp_path / 'ca.crt'}",
        )  # fmt: skip

        assert of_kind(manifests, "Secret") == []
        assert base64.b64decode(of_kind(manifests, "APIService")[0]["spec"]["caBundle"]) == authority
        (volume,) = find(manifests, "Deployment", METRICS_API)["spec"]["template"]["spec"]["volumes"]
        assert volume["secret"]["secretName"] == "mine"

    def test_an_own_certificate_without_its_authority_is_refused(self, tmp_path: Path) -> None:
        result = helm("template", RELEASE, str(CHART), "--set", "metricsApi.tls.existingSecret=mine", folder=tmp_path)

        assert result.returncode != 0
        assert "set metricsApi.tls.caBundle" in result.stderr

    def test_off_leaves_nothing_of_it(self, tmp_path: Path) -> None:
        manifests = render(tmp_path, "--set", "metricsApi.enabled=false")

        assert [item for item in manifests if "metrics-api" in item["metadata"]["name"]] == []
        assert of_kind(manifests, "APIService", "Secret") == []


class TestCustomResourceDefinition:
    source = yaml.safe_load((ROOT / "crds" / "depthservices.yaml").read_text())

    def test_is_that_of_the_source(self, tmp_path: Path) -> None:
        (rendered,) = of_kind(render(tmp_path, "--set", "crds.keep=false"), "CustomResourceDefinition")

        assert rendered == self.source

    def test_is_kept_by_default(self, defaults: list[Manifest]) -> None:
        (rendered,) = of_kind(defaults, "CustomResourceDefinition")

        assert rendered["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert rendered == self.source

    def test_can_be_left_out(self, tmp_path: Path) -> None:
        assert of_kind(render(tmp_path, "--set", "crds.enabled=false"), "CustomResourceDefinition") == []


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("replicaCount=2", "replicaCount"),
        ("operator.replica=2", "replica"),
        ("metricsApi.tls.secret=x", "secret"),
        ("prometheus.address=prometheus:9090", "/prometheus/address"),
        ("operator.logLevel=debug", "/operator/logLevel"),
        ("operator.replicas=-1", "/operator/replicas"),
        ("image.digest=sha256:12", "/image/digest"),
        ("watchNamespace=Not_A_Name", "/watchNamespace"),
        ("scaling.stabilizationWindowSeconds=0", "/scaling/stabilizationWindowSeconds"),
    ],
)
def test_unknown_and_wrong_values_are_refused_by_name(setting: str, field: str, tmp_path: Path) -> None:
    result = helm("template", RELEASE, str(CHART), "--set", setting, folder=tmp_path)

    assert result.returncode != 0
    assert field in result.stderr


def test_a_digest_wins_over_a_tag(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    manifests = render(tmp_path, "--set", f"image.digest={digest},image.tag=x,serverImage.tag=y")
    (container,) = find(manifests, "Deployment", RELEASE)["spec"]["template"]["spec"]["containers"]

    assert container["image"] == f"ghcr.io/depthserving/depth-operator@{digest}"
    variables = environment(find(manifests, "Deployment", RELEASE))
    assert variables["DEPTH_OPERATOR_SERVER_IMAGE"] == "ghcr.io/depthserving/depth-server:y"


def test_names_of_another_release_do_not_collide(tmp_path: Path) -> None:
    result = helm("template", "vision", str(CHART), "--namespace", "vision", folder=tmp_path)
    documents: list[Any] = [item for item in yaml.safe_load_all(result.stdout) if item]

    assert find(documents, "Deployment", "vision-depth-operator")
    assert find(documents, "ClusterRole", "vision-depth-operator-metrics-api")


def test_a_pod_monitor_gives_the_samples_the_labels_that_the_queries_select_by(tmp_path: Path) -> None:
    assert not of_kind(render(tmp_path), "PodMonitor")
    manifests = render(tmp_path, "--set", "podMonitor.enabled=true", "--set", "podMonitor.labels.release=mine")
    (monitor,) = of_kind(manifests, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == HTTP_PORT_NAME
    assert endpoint["relabelings"] == [
        {"sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"], "targetLabel": "service"}
    ]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= child_labels("any").items()
    assert monitor["metadata"]["labels"]["release"] == "mine"
