"""Clusters as a whole: start, stop, restart, failure, and two of them side by side."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from localcluster import processes
from localcluster.client import core
from localcluster.testing import ClusterHandle, localcluster, running_cluster, start_cluster
from localcluster.testing_objects import configured, pod, shell_container

pytestmark = pytest.mark.cluster


def left(handle: ClusterHandle) -> list[processes.ProcessIdentity]:
    """Processes of the cluster that still run."""
    state = handle.state
    return processes.find(state.cluster_id(), state.root, state.pids)


def pid_of(handle: ClusterHandle, component: str) -> int:
    status = handle.state.read_status()
    assert status is not None
    return next(item["pid"] for item in status["components"] if item["name"] == component)


def start_sleeper(handle: ClusterHandle) -> None:
    # The grandchild has a session of its own: it escapes from the container's process group.
    script = "setsid sleep 600 & exec sleep 600"
    handle.apply(pod("sleeper", shell_container("main", script)))
    handle.wait_for(
        "the sleeper",
        lambda: (handle.pod("default", "sleeper") or {})["status"].get("phase") == "Running",
        namespace="default",
    )


def test_second_cluster_runs_beside_the_first(cluster: ClusterHandle, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "other") as other:
        assert other.network.number != cluster.network.number
        other.apply(configured("ConfigMap", "only-here", {"key": "value"}))
        assert other.find(core("configmaps", "default", "only-here"))
        assert cluster.find(core("configmaps", "default", "only-here")) is None
        taken = localcluster("--state-dir", str(tmp_path / "third"), "up", "--number", str(other.network.number))
        assert taken.returncode == 1
        assert f"cluster number {other.network.number} is in use on this machine" in taken.stderr
    assert "ready" in cluster.status().stdout


def test_down_leaves_nothing_and_up_brings_the_objects_back(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "state") as handle:
        start_sleeper(handle)
        assert "already up" in localcluster("up", "--state-dir", str(handle.state_dir)).stdout
        assert "no process is left" in handle.down()
        assert left(handle) == []
        assert localcluster("--state-dir", str(handle.state_dir), "status").returncode == 3

        start_cluster(handle.state_dir)

        def restarted() -> bool:
            statuses = (handle.pod("default", "sleeper") or {})["status"].get("containerStatuses", [])
            return bool(statuses) and statuses[0]["restartCount"] == 1 and "running" in statuses[0]["state"]

        handle.wait_for("the pod runs again, one restart more", restarted, namespace="default")
        status = (handle.pod("default", "sleeper") or {})["status"]["containerStatuses"][0]
        assert status["lastState"]["terminated"]["exitCode"] == 255


def test_failures_are_told_and_leave_nothing(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with running_cluster(state_dir) as handle:
        start_sleeper(handle)
        scheduler_dies(handle)
        supervisor_dies(handle)
        (handle.state.etcd / "member" / "snap" / "db").write_bytes(b"no database")
        failed = localcluster("up", "--state-dir", str(state_dir))
        assert failed.returncode == 1
        assert "etcd died: " in failed.stderr
        assert f"last lines of {handle.state.logs / 'etcd.log'}" in failed.stderr
        assert left(handle) == []


def scheduler_dies(handle: ClusterHandle) -> None:
    os.kill(pid_of(handle, "kube-scheduler"), signal.SIGKILL)
    log = handle.state.logs / "kube-scheduler.log"

    def told() -> bool:
        status = handle.status()
        assert "kube-scheduler is dead: killed by SIGKILL" in status.stdout
        assert f"last lines of {log}" in status.stdout
        assert log.read_text().splitlines()[-1] in status.stdout
        return status.returncode == 1

    handle.wait_for("a word about the dead scheduler", told)


def supervisor_dies(handle: ClusterHandle) -> None:
    os.kill(pid_of(handle, "node"), signal.SIGKILL)
    handle.wait_for("the end of every process", lambda: not left(handle))
    status = handle.status()
    assert status.returncode == 1
    assert "the supervisor of" in status.stdout


def test_purge_spares_a_folder_that_holds_no_cluster(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    refused = localcluster("down", "--purge", "--state-dir", str(tmp_path))
    assert refused.returncode == 1
    assert "holds no cluster" in refused.stderr
    assert (tmp_path / "precious").exists()


def test_commands_without_a_cluster_say_so(tmp_path: Path) -> None:
    state = str(tmp_path / "none")
    assert localcluster("status", "--state-dir", state).returncode == 3
    missing = localcluster("kubeconfig", "--state-dir", state)
    assert missing.returncode == 1
    assert "run `python -m localcluster up` first" in missing.stderr
    assert "no cluster runs in" in localcluster("down", "--state-dir", state).stdout
    assert not Path(state).exists()
