"""Reads what pods refer to from the API server, as the node."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from localcluster.client import ApiClient, ApiError, core
from localcluster.node.volumes import MountError

if TYPE_CHECKING:
    from localcluster.settings import JsonObject


class ApiObjects:
    """ConfigMaps, Secrets, claims and tokens from the API server.

    The node authorizer lets a node read what its pods name; for a moment after the binding it may not know of the
    pod yet and answer 403, which callers treat as any error: they try again.
    """

    def __init__(self, client: ApiClient, volumes: Path) -> None:
        self._client = client
        self._volumes = volumes

    async def _get(self, path: str) -> JsonObject | None:
        try:
            return await self._client.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def config_map(self, namespace: str, name: str) -> JsonObject | None:
        """Return a ConfigMap, or None if it does not exist."""
        return await self._get(core("configmaps", namespace, name))

    async def secret(self, namespace: str, name: str) -> JsonObject | None:
        """Return a Secret, or None if it does not exist."""
        return await self._get(core("secrets", namespace, name))

    async def claim_folder(self, namespace: str, name: str) -> Path:
        """Return the folder behind a claim.

        Raises:
            MountError: If the claim is missing or not bound, or its volume lies outside of the cluster's folder.
        """
        claim = await self._get(core("persistentvolumeclaims", namespace, name))
        if claim is None:
            msg = f'persistentvolumeclaim "{name}" not found'
            raise MountError(msg)
        volume_name = claim["spec"].get("volumeName")
        if claim.get("status", {}).get("phase") != "Bound" or not volume_name:
            msg = f'persistentvolumeclaim "{name}" is not bound; the storage class of this cluster is "local"'
            raise MountError(msg)
        volume = await self._get(core("persistentvolumes", None, volume_name))
        path = Path((volume or {}).get("spec", {}).get("hostPath", {}).get("path", "/"))
        if not path.is_relative_to(self._volumes) or ".." in path.parts:
            msg = f"persistentvolume {volume_name!r} is not one of this cluster's folders below {self._volumes}"
            raise MountError(msg)
        await asyncio.to_thread(path.mkdir, parents=True, exist_ok=True)
        return path

    async def token(self, pod: JsonObject, audience: str | None, seconds: int) -> tuple[str, datetime]:
        """Return a token of the pod's service account, bound to the pod, and when it expires."""
        metadata = pod["metadata"]
        account = pod["spec"].get("serviceAccountName", "default")
        spec: JsonObject = {
            "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
        }
        if audience:
            spec["audiences"] = [audience]
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self._client.create(core("serviceaccounts", metadata["namespace"], account) + "/token", body)
        return answer["status"]["token"], datetime.fromisoformat(answer["status"]["expirationTimestamp"])
