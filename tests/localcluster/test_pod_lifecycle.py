"""Restarts, probes, termination: what a kubelet does with a pod over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from localcluster.testing_objects import pod, python_container, shell_container

if TYPE_CHECKING:
    from localcluster.testing import ClusterHandle

pytestmark = pytest.mark.cluster


def container_status(cluster: ClusterHandle, namespace: str, name: str) -> dict[str, Any]:
    statuses = (cluster.pod(namespace, name) or {}).get("status", {}).get("containerStatuses")
    return statuses[0] if statuses else {}


def test_crash_loop_backs_off_and_shows_its_termination_message(cluster: ClusterHandle, namespace: str) -> None:
    script = "echo attempt; echo -n 'WeightsNotFound: no file' > /dev/termination-log; exit 7"
    cluster.apply(pod("crash", shell_container("main", script)), namespace=namespace)

    def backed_off_twice() -> dict[str, Any] | None:
        status = container_status(cluster, namespace, "crash")
        waiting = status.get("state", {}).get("waiting", {})
        twice = waiting.get("reason") == "CrashLoopBackOff" and status["restartCount"] >= 2
        return status if twice else None

    status = cluster.wait_for("CrashLoopBackOff", backed_off_twice, namespace=namespace)
    ended = status["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (7, "Error", "WeightsNotFound: no file")
    assert status["state"]["waiting"]["message"].startswith("back-off 1s restarting")
    assert cluster.kubectl("logs", "-n", namespace, "crash", "--previous") == "attempt\n"
    assert (cluster.pod(namespace, "crash") or {})["status"]["phase"] == "Running"


def test_server_image_finds_its_termination_message_by_environment(cluster: ClusterHandle, namespace: str) -> None:
    program = "import os; open(os.environ['DEPTH_SERVER_TERMINATION_MESSAGE_PATH'], 'w').write('DeviceUnavailable: x')"
    container = {
        "name": "depth-server",
        "image": "ghcr.io/depthserving/depth-server:0.1.0",
        "command": ["python", "-c", program],
    }
    cluster.apply(pod("server", container, restartPolicy="Never"), namespace=namespace)

    def message() -> str | None:
        state = container_status(cluster, namespace, "server").get("state", {})
        return state.get("terminated", {}).get("message")

    assert cluster.wait_for("a message", message, namespace=namespace) == "DeviceUnavailable: x"


def test_last_log_lines_stand_in_for_the_message(cluster: ClusterHandle, namespace: str) -> None:
    container = shell_container("main", "echo it broke; exit 1", terminationMessagePolicy="FallbackToLogsOnError")
    cluster.apply(pod("fallback", container, restartPolicy="Never"), namespace=namespace)

    def message() -> str | None:
        state = container_status(cluster, namespace, "fallback").get("state", {})
        return state.get("terminated", {}).get("message")

    assert cluster.wait_for("a message", message, namespace=namespace) == "it broke"


def test_missing_program_is_a_start_error(cluster: ClusterHandle, namespace: str) -> None:
    container = {"name": "main", "image": "busybox", "command": ["no-such-program"]}
    cluster.apply(pod("nothing", container, restartPolicy="Never"), namespace=namespace)

    def ended() -> dict[str, Any] | None:
        return container_status(cluster, namespace, "nothing").get("state", {}).get("terminated")

    state = cluster.wait_for("an end", ended, namespace=namespace)
    assert (state["exitCode"], state["reason"]) == (128, "StartError")
    assert "no-such-program" in state["message"]


def test_missing_secret_is_named_until_it_comes(cluster: ClusterHandle, namespace: str) -> None:
    reference = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "word", "key": "word"}}}
    cluster.apply(
        pod("needs", shell_container("main", "echo $WORD", env=[reference]), restartPolicy="Never"),
        namespace=namespace,
    )

    def waiting() -> dict[str, Any] | None:
        state = container_status(cluster, namespace, "needs").get("state", {}).get("waiting", {})
        return state if state.get("reason") == "CreateContainerConfigError" else None

    assert cluster.wait_for("the reason", waiting, namespace=namespace)["message"] == 'secret "word" not found'
    cluster.kubectl("create", "secret", "generic", "word", "--from-literal=word=there", "-n", namespace)
    cluster.wait_for(
        "the end", lambda: container_status(cluster, namespace, "needs")["state"].get("terminated"), namespace=namespace
    )
    assert cluster.kubectl("logs", "-n", namespace, "needs") == "there\n"


def test_failed_liveness_restarts_and_readiness_follows_the_probe(cluster: ClusterHandle, namespace: str) -> None:
    container = shell_container(
        "main",
        "touch /state/ready /state/alive; exec sleep 600",
        volumeMounts=[{"name": "state", "mountPath": "/state"}],
        readinessProbe={"exec": {"command": ["test", "-e", "/state/ready"]}, "periodSeconds": 1, "failureThreshold": 1},
        livenessProbe={
            "exec": {"command": ["test", "-e", "/state/alive"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
            "initialDelaySeconds": 1,
        },
    )
    cluster.apply(pod("probed", container, volumes=[{"name": "state", "emptyDir": {}}]), namespace=namespace)
    cluster.wait_for(
        "readiness", lambda: container_status(cluster, namespace, "probed").get("ready"), namespace=namespace
    )
    uid = (cluster.pod(namespace, "probed") or {})["metadata"]["uid"]
    folder = cluster.state.pods / uid[:8] / "volumes" / "state"
    (folder / "ready").unlink()
    cluster.wait_for(
        "unreadiness",
        lambda: container_status(cluster, namespace, "probed").get("ready") is False,
        namespace=namespace,
    )
    assert container_status(cluster, namespace, "probed")["restartCount"] == 0
    (folder / "alive").unlink()
    cluster.wait_for(
        "a restart",
        lambda: (
            container_status(cluster, namespace, "probed").get("restartCount") == 1
            and container_status(cluster, namespace, "probed").get("ready")
        ),
        namespace=namespace,
    )
    reasons = {event["reason"] for event in cluster.events(namespace, "probed")}
    assert {"Unhealthy", "Killing", "Started", "Created"} <= reasons


STOPPING = """
import pathlib, signal, sys, time
order = pathlib.Path(sys.argv[1])
def stop(number, frame):
    with order.open("a") as file:
        file.write("SIGTERM\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""


def test_termination_runs_pre_stop_before_sigterm(cluster: ClusterHandle, namespace: str) -> None:
    container = python_container("main", STOPPING, volumeMounts=[{"name": "data", "mountPath": "/data"}])
    container["args"].append("/data/order")
    container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", "echo preStop >> /data/order"]}}}
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    cluster.apply(claim, pod("stopping", container, volumes=volumes), namespace=namespace)
    cluster.wait_for(
        "the handler",
        lambda: "ready" in cluster.kubectl("logs", "-n", namespace, "stopping", check=False).splitlines(),
        namespace=namespace,
    )
    uid = (cluster.pod(namespace, "stopping") or {})["metadata"]["uid"]
    cluster.kubectl("delete", "pod", "stopping", "-n", namespace)
    order = cluster.state.volumes / namespace / "data" / "order"
    assert order.read_text() == "preStop\nSIGTERM\n"
    cluster.wait_for("the folder's end", lambda: not (cluster.state.pods / uid[:8]).exists())


def test_process_that_ignores_sigterm_is_killed_after_the_grace_period(cluster: ClusterHandle, namespace: str) -> None:
    script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
    cluster.apply(pod("deaf", shell_container("main", script)), namespace=namespace)
    cluster.wait_for(
        "the trap",
        lambda: "deaf" in cluster.kubectl("logs", "-n", namespace, "deaf", check=False).splitlines(),
        namespace=namespace,
    )
    cluster.kubectl("delete", "pod", "deaf", "-n", namespace, "--grace-period=1", "--timeout=30s")
    assert cluster.pod(namespace, "deaf") is None


def test_start_delay_simulates_an_image_pull(cluster: ClusterHandle, namespace: str) -> None:
    slow = pod("slow", shell_container("main", "echo hello"), restartPolicy="Never")
    slow["metadata"]["annotations"] = {"localcluster.depthserving.dev/start-delay-seconds": "1"}
    cluster.apply(slow, namespace=namespace)
    cluster.wait_for(
        "the end",
        lambda: (cluster.pod(namespace, "slow") or {})["status"].get("phase") == "Succeeded",
        namespace=namespace,
    )
    messages = [event["message"] for event in cluster.events(namespace, "slow") if event["reason"] == "Pulled"]
    assert messages == ['Successfully pulled image "busybox" in 1s (simulated)']
