"""The state folder: where everything about one cluster lies."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from localcluster.settings import ClusterOptions, JsonObject

if TYPE_CHECKING:
    from pathlib import Path


def write_atomically(path: Path, text: str | bytes, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = text.encode() if isinstance(text, str) else text
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.chmod(mode)
    temporary.replace(path)


@dataclass(frozen=True)
class StateDir:
    """Paths below one state folder (absolute)."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> StateDir:
        """Return the state folder at `path`, made absolute; nothing is created."""
        return cls(path.resolve())

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig of the cluster's administrator."""
        return self.root / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    @property
    def logs(self) -> Path:
        """Logs of the components."""
        return self.root / "logs"

    @property
    def etcd(self) -> Path:
        """Etcd's data."""
        return self.root / "etcd"

    @property
    def pods(self) -> Path:
        """One folder per pod."""
        return self.root / "pods"

    @property
    def volumes(self) -> Path:
        """Folders of persistent volumes: `volumes/pvc/<namespace>/<claim>`."""
        return self.root / "volumes" / "pvc"

    @property
    def bin(self) -> Path:
        """Links to the programs of this cluster, first on every pod's PATH."""
        return self.root / "bin"

    @property
    def pids(self) -> Path:
        """One record per process group that was started."""
        return self.root / "pids"

    @property
    def status_file(self) -> Path:
        """What the supervisor last said about its components."""
        return self.root / "status.json"

    @property
    def options_file(self) -> Path:
        """The options of the last `up`."""
        return self.root / "options.json"

    @property
    def identity_file(self) -> Path:
        """Cluster id and number; written once."""
        return self.root / "cluster.json"

    @property
    def egress_file(self) -> Path:
        """Configuration that sends kube-apiserver's cluster traffic to the egress proxy."""
        return self.root / "egress.json"

    @property
    def supervisor_log(self) -> Path:
        """Log of the supervisor, the node and the proxies."""
        return self.logs / "supervisor.log"

    def create(self) -> None:
        """Make the folders; only the owner may enter, as keys and Secrets lie inside."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.pki, self.logs, self.pods, self.volumes, self.bin, self.pids):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.identity_file.exists():
            write_atomically(self.identity_file, json.dumps({"id": uuid.uuid4().hex, "number": None}))

    @property
    def holds_cluster(self) -> bool:
        """Whether this is a cluster's folder, and not one of somebody else."""
        return self.identity_file.exists()

    def read_options(self) -> ClusterOptions:
        """Return the stored options, or the defaults before the first `up`."""
        if not self.options_file.exists():
            return ClusterOptions()
        return ClusterOptions.from_json(self.options_file.read_text())

    def write_options(self, options: ClusterOptions) -> None:
        """Store the options for the supervisor."""
        write_atomically(self.options_file, options.to_json())

    def cluster_id(self) -> str:
        """Return the id that marks this cluster's processes; `create` made it."""
        return str(json.loads(self.identity_file.read_text())["id"])

    def cluster_number(self) -> int | None:
        """Return the number this state folder was first started with; its etcd data holds those addresses."""
        if not self.identity_file.exists():
            return None
        number = json.loads(self.identity_file.read_text())["number"]
        return None if number is None else int(number)

    def write_number(self, number: int) -> None:
        """Fix the cluster number of this state folder."""
        write_atomically(self.identity_file, json.dumps({"id": self.cluster_id(), "number": number}))

    def read_status(self) -> JsonObject | None:
        """Return the supervisor's last status, or None if there was none."""
        if not self.status_file.exists():
            return None
        status: JsonObject = json.loads(self.status_file.read_text())
        return status
