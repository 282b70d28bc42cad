"""Kubeconfig files: for people, for the control plane, for pods."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from localcluster.settings import JsonObject


def _config(cluster: JsonObject, user: JsonObject, name: str, namespace: str = "default") -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "localcluster", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [
                {"name": "localcluster", "context": {"cluster": "localcluster", "user": name, "namespace": namespace}}
            ],
            "current-context": "localcluster",
        },
        indent=2,
    )


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def with_certificate(server: str, pki: Path, file: str) -> str:
    """Return a kubeconfig with the client certificate `file` of the folder `pki` embedded."""
    return _config(
        {"server": server, "certificate-authority-data": _encoded(pki / "ca.crt")},
        {
            "client-certificate-data": _encoded(pki / f"{file}.crt"),
            "client-key-data": _encoded(pki / f"{file}.key"),
        },
        file,
    )


def with_token_file(server: str, folder: Path, namespace: str) -> str:
    """Return a kubeconfig that reads `token` and `ca.crt` from a service account's folder at every use."""
    return _config(
        {"server": server, "certificate-authority": str(folder / "ca.crt")},
        {"tokenFile": str(folder / "token")},
        "service-account",
        namespace,
    )
