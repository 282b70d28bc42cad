"""Real objects on a real API server: Deployment, Service, Job, volumes, environment, identity."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from localcluster.client import core
from localcluster.testing_objects import (
    claim,
    configured,
    deployment,
    pod,
    python_container,
    service,
    shell_container,
)

if TYPE_CHECKING:
    from pathlib import Path

    from localcluster.testing import ClusterHandle

pytestmark = pytest.mark.cluster

WEB = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["HOSTNAME"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
print("listening", flush=True)
http.server.ThreadingHTTPServer((sys.argv[1], 8080), Handler).serve_forever()
"""


def web_container() -> dict[str, Any]:
    return {
        "name": "web",
        "image": "python:3.11",
        "args": ["-c", WEB, "0.0.0.0"],  # noqa: S104 - the node rewrites it to the pod's address
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
    }


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - the http URL of an own Service
        return response.read().decode()


def phase_of(cluster: ClusterHandle, namespace: str, name: str) -> str:
    return (cluster.pod(namespace, name) or {}).get("status", {}).get("phase", "")


def finished(cluster: ClusterHandle, namespace: str, name: str) -> dict[str, Any]:
    """Wait until a pod has ended; return it."""
    return cluster.wait_for(
        f"the end of pod {name}",
        lambda: cluster.pod(namespace, name) if phase_of(cluster, namespace, name) in ("Succeeded", "Failed") else None,
        namespace=namespace,
    )


def test_deployment_is_served_by_its_service(cluster: ClusterHandle, namespace: str) -> None:
    cluster.apply(
        deployment("web", 2, web_container()), service("web", {"app": "web"}, 80, "http"), namespace=namespace
    )
    cluster.kubectl("rollout", "status", "deploy/web", "-n", namespace, "--timeout=60s")
    url = cluster.url(namespace, "web", 80)
    assert ":10080" in url

    names = {item["metadata"]["name"] for item in cluster.pods(namespace)}
    seen: set[str] = set()

    def both_answered() -> bool:
        seen.add(fetch(url))
        return seen == names

    cluster.wait_for("an answer of each pod", both_answered, namespace=namespace)

    cluster.kubectl("scale", "deploy/web", "--replicas=1", "-n", namespace)
    cluster.wait_for("one pod", lambda: len(cluster.pods(namespace)) == 1, namespace=namespace)
    assert fetch(url) == cluster.pods(namespace)[0]["metadata"]["name"]


def test_logs_tail_and_follow(cluster: ClusterHandle, namespace: str) -> None:
    cluster.apply(
        pod("talk", shell_container("main", "echo one; echo two; echo three"), restartPolicy="Never"),
        namespace=namespace,
    )
    finished(cluster, namespace, "talk")
    assert cluster.kubectl("logs", "-n", namespace, "talk") == "one\ntwo\nthree\n"
    assert cluster.kubectl("logs", "-n", namespace, "talk", "--tail=1") == "three\n"
    assert cluster.kubectl("logs", "-n", namespace, "talk", "-f") == "one\ntwo\nthree\n"


def test_exec_and_time_stamps_are_refused_in_words(cluster: ClusterHandle, namespace: str) -> None:
    cluster.apply(pod("idle", shell_container("main", "exec sleep 600")), namespace=namespace)
    cluster.wait_for("a running pod", lambda: phase_of(cluster, namespace, "idle") == "Running", namespace=namespace)
    assert "logs only" in cluster.kubectl("exec", "-n", namespace, "idle", "--", "true", check=False)
    stamped = cluster.kubectl("logs", "-n", namespace, "idle", "--timestamps", check=False)
    assert "keeps no times of log lines" in stamped


ENVIRONMENT: list[dict[str, Any]] = [
    {"name": "PLAIN", "value": "plain"},
    {"name": "EXPANDED", "value": "$(PLAIN)-$(SECRET)-$$(PLAIN)-$(MISSING)"},
    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['tier']"}}},
    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
    {"name": "CONFIG_FILE", "value": "/etc/conf/app.ini"},
    {"name": "DATA", "value": "/data/nested"},
    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
]
REPORT = """
import json, os, pathlib, sys
keys = ("PLAIN", "EXPANDED", "NAME", "LABEL", "CPU", "POD_IP", "PREFIX_all")
result = {key: os.environ.get(key) for key in keys}
result["config"] = pathlib.Path(os.environ["CONFIG_FILE"]).read_text()
result["secret"] = pathlib.Path(sys.argv[1]).read_text()
result["labels"] = pathlib.Path(sys.argv[2]).read_text()
data = pathlib.Path(os.environ["DATA"])
data.mkdir(parents=True, exist_ok=True)
(data / "kept").write_text("kept")
result["scratch"] = pathlib.Path(sys.argv[3]).read_text()
result["home"] = os.path.isdir(os.environ["HOME"]) and os.getcwd() != "/"
print(json.dumps(result))
"""


def everything_pod() -> dict[str, Any]:
    mounts = [
        {"name": "conf", "mountPath": "/etc/conf"},
        {"name": "sec", "mountPath": "/etc/sec"},
        {"name": "info", "mountPath": "/etc/info"},
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "data", "mountPath": "/data"},
    ]
    secret_env = {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "password"}}}
    main = python_container("main", REPORT, volumeMounts=mounts)
    main["args"] += ["/etc/sec/word", "/etc/info/labels", "/scratch/from-init"]
    main["env"] = [secret_env, *ENVIRONMENT]
    main["envFrom"] = [{"prefix": "PREFIX_", "configMapRef": {"name": "conf"}}]
    main["resources"] = {"requests": {"cpu": "250m"}}
    init = shell_container("init", "echo -n before > /scratch/from-init", volumeMounts=mounts)
    secret_items = [{"key": "password", "path": "word"}]
    labels_item = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    return pod(
        "all",
        main,
        labels={"tier": "front"},
        initContainers=[init],
        restartPolicy="Never",
        volumes=[
            {"name": "conf", "configMap": {"name": "conf"}},
            {"name": "sec", "secret": {"secretName": "sec", "items": secret_items}},
            {"name": "info", "downwardAPI": {"items": [labels_item]}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        ],
    )


def test_environment_volumes_and_init_container(cluster: ClusterHandle, namespace: str) -> None:
    cluster.apply(
        configured("ConfigMap", "conf", {"app.ini": "[app]", "all": "yes"}),
        configured("Secret", "sec", {"password": "s3cret"}),
        claim("data"),
        everything_pod(),
        namespace=namespace,
    )
    ended = finished(cluster, namespace, "all")
    assert ended["status"]["phase"] == "Succeeded", cluster.dump(namespace)
    report = json.loads(cluster.kubectl("logs", "-n", namespace, "all"))
    address = ended["status"]["podIP"]
    assert report == {
        "PLAIN": "plain",
        "EXPANDED": "plain-s3cret-$(PLAIN)-$(MISSING)",
        "NAME": "all",
        "LABEL": "front",
        "CPU": "250",
        "POD_IP": f"127.{address.split('.', 1)[1]}",
        "PREFIX_all": "yes",
        "config": "[app]",
        "secret": "s3cret",
        "labels": 'tier="front"',
        "scratch": "before",
        "home": True,
    }
    assert (cluster.state.volumes / namespace / "data" / "nested" / "kept").read_text() == "kept"


def test_folder_of_a_claim_goes_with_it(cluster: ClusterHandle, namespace: str) -> None:
    cluster.apply(claim("gone"), namespace=namespace)

    def folder() -> Path | None:
        bound = cluster.api(core("persistentvolumeclaims", namespace, "gone"))
        path = cluster.state.volumes / namespace / "gone"
        return path if bound.get("status", {}).get("phase") == "Bound" and path.is_dir() else None

    path = cluster.wait_for("a bound claim", folder, namespace=namespace)
    cluster.kubectl("delete", "pvc", "gone", "-n", namespace)
    cluster.wait_for("the folder's end", lambda: not path.exists())


def test_missing_config_map_holds_the_pod_until_it_comes(cluster: ClusterHandle, namespace: str) -> None:
    waiting = pod(
        "late",
        shell_container("main", "cat /conf/text", volumeMounts=[{"name": "conf", "mountPath": "/conf"}]),
        restartPolicy="Never",
        volumes=[{"name": "conf", "configMap": {"name": "late"}}],
    )
    cluster.apply(waiting, namespace=namespace)

    def failed_mount() -> bool:
        return any(
            event["reason"] == "FailedMount" and 'configmap "late" not found' in event["message"]
            for event in cluster.events(namespace, "late")
        )

    cluster.wait_for("a FailedMount event", failed_mount, namespace=namespace)
    state = (cluster.pod(namespace, "late") or {})["status"]["containerStatuses"][0]["state"]
    assert state["waiting"]["reason"] == "ContainerCreating"
    cluster.apply(configured("ConfigMap", "late", {"text": "there"}), namespace=namespace)
    finished(cluster, namespace, "late")
    assert cluster.kubectl("logs", "-n", namespace, "late") == "there"


def test_host_path_is_refused(cluster: ClusterHandle, namespace: str) -> None:
    volumes = [{"name": "root", "hostPath": {"path": "/"}}]
    cluster.apply(pod("host", shell_container("main", "ls /host"), volumes=volumes), namespace=namespace)
    cluster.wait_for(
        "a FailedMount event",
        lambda: any("hostPath are not offered" in event["message"] for event in cluster.events(namespace, "host")),
        namespace=namespace,
    )


CALL_API = """
import json, os, ssl, urllib.error, urllib.request
config = json.load(open(os.environ["KUBECONFIG"]))
cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
token = open(user["tokenFile"]).read()
context = ssl.create_default_context(cafile=cluster["certificate-authority"])
def get(path):
    request = urllib.request.Request(cluster["server"] + path, headers={"Authorization": "Bearer " + token})
    try:
        return urllib.request.urlopen(request, context=context, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
namespace = open(os.path.join(os.path.dirname(os.environ["KUBECONFIG"]), "namespace")).read()
print(get(f"/api/v1/namespaces/{namespace}/configmaps"), get(f"/api/v1/namespaces/{namespace}/secrets"))
"""


def test_service_account_may_do_what_rbac_grants_and_no_more(cluster: ClusterHandle, namespace: str) -> None:
    cluster.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps", "-n", namespace)
    cluster.kubectl(
        "create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:default", "-n", namespace
    )
    cluster.apply(pod("caller", python_container("main", CALL_API), restartPolicy="Never"), namespace=namespace)
    finished(cluster, namespace, "caller")
    assert cluster.kubectl("logs", "-n", namespace, "caller") == "200 403\n"


def test_job_completes_after_a_failure(cluster: ClusterHandle, namespace: str) -> None:
    script = "if [ -e /scratch/tried ]; then exit 0; fi; touch /scratch/tried; exit 3"
    template = {
        "restartPolicy": "OnFailure",
        "containers": [shell_container("main", script, volumeMounts=[{"name": "work", "mountPath": "/scratch"}])],
        "volumes": [{"name": "work", "emptyDir": {}}],
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "twice"},
        "spec": {"template": {"spec": template}},
    }
    cluster.apply(job, namespace=namespace)
    cluster.kubectl("wait", "--for=condition=complete", "job/twice", "-n", namespace, "--timeout=60s")
    status = cluster.pods(namespace)[0]["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1
    assert status["state"]["terminated"]["reason"] == "Completed"
    assert status["lastState"]["terminated"]["exitCode"] == 3


def test_failed_init_container_fails_a_pod_that_never_restarts(cluster: ClusterHandle, namespace: str) -> None:
    broken = pod(
        "broken",
        shell_container("main", "echo never"),
        initContainers=[shell_container("init", "exit 4")],
        restartPolicy="Never",
    )
    cluster.apply(broken, namespace=namespace)
    status = finished(cluster, namespace, "broken")["status"]
    assert status["phase"] == "Failed"
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 4
    assert "waiting" in status["containerStatuses"][0]["state"]


def test_ninth_gpu_pod_waits_for_a_gpu(cluster: ClusterHandle, namespace: str) -> None:
    gpu = shell_container("main", "exec sleep 600", resources={"limits": {"nvidia.com/gpu": 1}})
    cluster.apply(*(pod(f"gpu-{index}", gpu) for index in range(9)), namespace=namespace)

    def by_phase(phase: str) -> list[str]:
        return [item["metadata"]["name"] for item in cluster.pods(namespace) if item["status"]["phase"] == phase]

    cluster.wait_for("eight running pods", lambda: len(by_phase("Running")) == 8, namespace=namespace)
    (waiting,) = by_phase("Pending")

    def refused() -> str | None:
        conditions = (cluster.pod(namespace, waiting) or {})["status"].get("conditions", [])
        return next((item["message"] for item in conditions if item["type"] == "PodScheduled"), None)

    assert "Insufficient nvidia.com/gpu" in cluster.wait_for("the scheduler's reason", refused, namespace=namespace)
    cluster.kubectl("delete", "pod", by_phase("Running")[0], "-n", namespace)
    cluster.wait_for("its GPU goes to the ninth", lambda: waiting in by_phase("Running"), namespace=namespace)


def test_user_image_runs_and_an_unknown_one_is_named(cluster: ClusterHandle, namespace: str) -> None:
    cluster.apply(
        # The image's program lies under /tmp on this machine, which is not the /tmp of the pod.
        pod(
            "known",
            {
                "name": "main",
                "image": "registry.example/hello:2",
                "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],  # noqa: S108 - the pod's own
            },
            volumes=[{"name": "scratch", "emptyDir": {}}],
            restartPolicy="Never",
        ),
        pod("unknown", {"name": "main", "image": "registry.example/nobody:1"}),
        namespace=namespace,
    )
    finished(cluster, namespace, "known")
    assert cluster.kubectl("logs", "-n", namespace, "known") == "hello from an image\n"

    def reason() -> str | None:
        statuses = (cluster.pod(namespace, "unknown") or {})["status"].get("containerStatuses", [{}])
        waiting = statuses[0].get("state", {}).get("waiting", {})
        return waiting["message"] if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff") else None

    message = cluster.wait_for("the image's reason", reason, namespace=namespace)
    assert '"registry.example/nobody:1" is not in the image table' in message


def test_job_completes_although_its_sidecar_runs_on(cluster: ClusterHandle, namespace: str) -> None:
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    sidecar = shell_container(
        "sidecar", "touch /shared/up; exec sleep 600", restartPolicy="Always", volumeMounts=mounts
    )
    sidecar["startupProbe"] = {"exec": {"command": ["test", "-e", "/shared/up"]}, "periodSeconds": 1}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "initContainers": [sidecar],
        "containers": [shell_container("main", "test -e /shared/up", volumeMounts=mounts)],
        "volumes": [{"name": "shared", "emptyDir": {}}],
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "aided"},
        "spec": {"backoffLimit": 0, "template": {"spec": spec}},
    }
    cluster.apply(job, namespace=namespace)
    cluster.kubectl("wait", "--for=condition=complete", "job/aided", "-n", namespace, "--timeout=60s")


def test_node_port_is_reached_at_the_node(cluster: ClusterHandle, namespace: str) -> None:
    exposed = service("web", {"app": "web"}, 80, "http")
    exposed["spec"]["type"] = "NodePort"
    cluster.apply(pod("web", web_container(), labels={"app": "web"}), exposed, namespace=namespace)
    port = cluster.api(core("services", namespace, "web"))["spec"]["ports"][0]["nodePort"]
    url = f"http://{cluster.network.node_loopback}:{port}"
    assert cluster.wait_for("an answer", lambda: fetch(url), namespace=namespace) == "web"


def test_service_is_reached_by_its_name_and_an_absent_one_is_told(cluster: ClusterHandle, namespace: str) -> None:
    cluster.apply(
        pod("web", web_container(), labels={"app": "web"}),
        service("web", {"app": "web"}, 80, "http"),
        namespace=namespace,
    )
    cluster.kubectl("wait", "--for=condition=Ready", "pod/web", "-n", namespace, "--timeout=60s")
    program = "import os, urllib.request; print(urllib.request.urlopen(os.environ['URL'], timeout=10).read().decode())"
    caller = python_container("main", program)
    caller["env"] = [
        {"name": "URL", "value": f"http://web.{namespace}.svc/"},
        {"name": "OTHER", "value": f"http://absent.{namespace}.svc:8000"},
    ]
    cluster.apply(pod("caller", caller, restartPolicy="Never"), namespace=namespace)
    finished(cluster, namespace, "caller")
    assert cluster.kubectl("logs", "-n", namespace, "caller") == "web\n"
    events = cluster.wait_for("events", lambda: cluster.events(namespace, "caller"))
    assert any(event["reason"] == "ServiceNotFound" and "absent" in event["message"] for event in events)
