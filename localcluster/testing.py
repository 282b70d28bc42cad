"""Local clusters for tests: start one, talk to it, wait for conditions, and see what happened when one is not met."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from localcluster import controlplane
from localcluster.client import certificate_context, core
from localcluster.network import ClusterNetwork, reach
from localcluster.settings import REPOSITORY, JsonObject
from localcluster.state import StateDir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")

WAIT_SECONDS = 60.0
"""Default bound of `wait_for`."""

POLL_SECONDS = 0.1
"""Interval in which conditions are asked."""

UP_SECONDS = 1800.0
"""Bound on `up`, which may have to build the control plane first."""

DUMP_LINES = 40
"""Lines of a log or of the events in a dump."""


class ConditionTimeoutError(AssertionError):
    """A condition was not met in time; the message holds the resource, the events and the logs."""


def localcluster(*arguments: str, timeout: float = UP_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run `python -m localcluster` of this checkout and return its output; a failure is left to the caller."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "localcluster", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@dataclass(frozen=True)
class ClusterPrograms:
    """Programs and kubeconfig of a cluster, for those who run commands themselves."""

    kubectl: Path
    helm: Path
    kubeconfig: Path


def cluster_programs(state_dir: Path) -> ClusterPrograms:
    """Return kubectl, helm and the kubeconfig of the cluster in a state folder."""
    state = StateDir.at(state_dir)
    return ClusterPrograms(state.bin / "kubectl", state.bin / "helm", state.kubeconfig)


@dataclass(frozen=True)
class ClusterHandle:
    """One running local cluster."""

    state_dir: Path

    @cached_property
    def state(self) -> StateDir:
        """Paths of the cluster's state folder."""
        return StateDir.at(self.state_dir)

    @cached_property
    def network(self) -> ClusterNetwork:
        """Addresses of the cluster."""
        number = self.state.cluster_number()
        if number is None:
            msg = f"{self.state_dir} has never been started"
            raise RuntimeError(msg)
        return ClusterNetwork(number)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state.kubeconfig

    @cached_property
    def environment(self) -> dict[str, str]:
        """Environment in which `kubectl` and `helm` use this cluster."""
        path = f"{self.state.bin}:{os.environ['PATH']}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def run(self, *command: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a program against the cluster and return what it wrote to standard output.

        Raises:
            AssertionError: If it fails and `check` is true; the message holds its output.
        """
        done = subprocess.run(
            list(command), env=self.environment, input=stdin, capture_output=True, text=True, timeout=300, check=False
        )
        if check and done.returncode != 0:
            msg = f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            raise AssertionError(msg)
        return done.stdout if check else done.stdout + done.stderr

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as the administrator; with `check=False` standard error is returned too."""
        return self.run(str(self.state.bin / "kubectl"), *arguments, stdin=stdin, check=check)

    def apply(self, *objects: JsonObject, namespace: str = "default") -> None:
        """Apply objects server-side."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", stdin=text)

    def api(self, path: str, **params: str) -> JsonObject:
        """GET a path of the API as the administrator, much cheaper than kubectl.

        Raises:
            urllib.error.HTTPError: If the API server answers with an error.
        """
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        url = f"{controlplane.api_server(self.network)}{path}{query}"
        context = certificate_context(self.state.pki, "admin")
        with urllib.request.urlopen(url, context=context, timeout=30) as response:  # noqa: S310 - an https URL of the own cluster
            answer: JsonObject = json.load(response)
            return answer

    def find(self, path: str) -> JsonObject | None:
        """Return an object, or None if it does not exist."""
        try:
            return self.api(path)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            raise

    def pod(self, namespace: str, name: str) -> JsonObject | None:
        """Return a pod, or None."""
        return self.find(core("pods", namespace, name))

    def pods(self, namespace: str, selector: str = "") -> list[JsonObject]:
        """Return the pods of a namespace."""
        items: list[JsonObject] = self.api(core("pods", namespace), labelSelector=selector)["items"]
        return items

    def events(self, namespace: str, name: str) -> list[JsonObject]:
        """Return the events about one object."""
        selector = f"involvedObject.name={name}"
        items: list[JsonObject] = self.api(core("events", namespace), fieldSelector=selector)["items"]
        return items

    def url(self, namespace: str, service: str, port: int) -> str:
        """Return the URL at which a Service's port is reached from this machine."""
        address = self.api(core("services", namespace, service))["spec"]["clusterIP"]
        host, number = reach(address, port)
        return f"http://{host}:{number}"

    def wait_for(
        self,
        what: str,
        condition: Callable[[], T | None],
        *,
        timeout: float = WAIT_SECONDS,
        namespace: str | None = None,
    ) -> T:
        """Ask a condition until it returns something true, and return that.

        Args:
            what: The condition in words, for the message.
            condition: Returns something true when it is met; an AssertionError or an unreachable address counts as
                not yet.
            timeout: Seconds until it fails.
            namespace: What is dumped on failure: its pods, events and logs.

        Raises:
            ConditionTimeoutError: If the condition is not met in time.
        """
        deadline = time.monotonic() + timeout
        last: object = None
        while True:
            try:
                result = condition()
            except (AssertionError, OSError) as error:
                last = error
            else:
                if result:
                    return result
                last = result
            if time.monotonic() > deadline:
                dump = self.dump(namespace) if namespace else ""
                msg = f"not within {timeout:g} s: {what}; last seen: {last!r}\n{dump}"
                raise ConditionTimeoutError(msg)
            time.sleep(POLL_SECONDS)

    def dump(self, namespace: str) -> str:
        """Return a namespace's pods, events and logs as text."""
        parts = [
            self.kubectl("get", "all", "-n", namespace, "-o", "wide", check=False),
            self.kubectl("get", "events", "-n", namespace, "--sort-by=.lastTimestamp", check=False),
        ]
        for pod in self.pods(namespace):
            name = pod["metadata"]["name"]
            log = self.kubectl("logs", "-n", namespace, name, "--all-containers", f"--tail={DUMP_LINES}", check=False)
            parts.append(f"--- status of {name}\n{json.dumps(pod.get('status'), indent=1)}\n--- log of {name}\n{log}")
        return "\n".join(parts)

    def status(self) -> subprocess.CompletedProcess[str]:
        """Run `status`."""
        return localcluster("--state-dir", str(self.state_dir), "status")

    def down(self) -> str:
        """Stop the cluster and return what `down` said.

        Raises:
            AssertionError: If `down` fails.
        """
        done = localcluster("--state-dir", str(self.state_dir), "down")
        if done.returncode != 0:
            msg = f"down ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            raise AssertionError(msg)
        return done.stdout


def start_cluster(state_dir: Path, options: Sequence[str] = ()) -> ClusterHandle:
    """Start a cluster (or find it running) and return its handle.

    Args:
        state_dir: The cluster's state folder.
        options: Options of `up`, such as `["--gpus", "4"]`.

    Raises:
        AssertionError: If `up` fails; the message holds its output.
    """
    done = localcluster("--state-dir", str(state_dir), "up", *options)
    if done.returncode != 0:
        msg = f"up ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        raise AssertionError(msg)
    return ClusterHandle(state_dir)


@contextlib.contextmanager
def running_cluster(state_dir: Path, options: Sequence[str] = ()) -> Iterator[ClusterHandle]:
    """Start a cluster for the block and stop it afterwards, whatever happens."""
    try:
        yield start_cluster(state_dir, options)
    finally:
        if state_dir.exists():
            ClusterHandle(state_dir).down()
