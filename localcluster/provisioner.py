"""Gives every PersistentVolumeClaim of the storage class `local` a folder.

The folder of a claim is `<state>/volumes/pvc/<namespace>/<claim>`: known beforehand, so files may be put there before
the claim exists. It is removed with the claim (reclaim policy Delete).
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import aiohttp

from localcluster.client import ApiClient, ApiError, core
from localcluster.informer import Change, Informer
from localcluster.settings import ANNOTATION_PREFIX, API_RETRY_SECONDS, JsonObject

log = logging.getLogger(__name__)

PROVISIONER = f"{ANNOTATION_PREFIX}/directory"
"""Name by which the storage class and its volumes name the provisioner."""

PROVISIONER_ANNOTATION = "volume.kubernetes.io/storage-provisioner"
"""Annotation by which kube-controller-manager asks a provisioner for a volume."""


def wants_volume(claim: JsonObject) -> bool:
    """Say whether a claim waits for this provisioner."""
    annotations = claim["metadata"].get("annotations") or {}
    return (
        annotations.get(PROVISIONER_ANNOTATION) == PROVISIONER
        and not claim["spec"].get("volumeName")
        and not claim["metadata"].get("deletionTimestamp")
    )


def volume_for(claim: JsonObject, root: Path) -> JsonObject:
    """Return the PersistentVolume of a claim."""
    metadata, spec = claim["metadata"], claim["spec"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": f"pvc-{metadata['uid']}",
            "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec.get("storageClassName", ""),
            "volumeMode": "Filesystem",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "hostPath": {"path": str(root / metadata["namespace"] / metadata["name"])},
        },
    }


def is_released(volume: JsonObject) -> bool:
    """Say whether a volume of this provisioner has lost its claim."""
    annotations = volume["metadata"].get("annotations") or {}
    return (
        annotations.get("pv.kubernetes.io/provisioned-by") == PROVISIONER
        and volume.get("status", {}).get("phase") == "Released"
        and not volume["metadata"].get("deletionTimestamp")
    )


class Provisioner:
    """Follows claims and volumes."""

    def __init__(self, client: ApiClient, root: Path) -> None:
        self._client = client
        self._root = root
        self._changed = asyncio.Event()
        self._claims = Informer(client, core("persistentvolumeclaims"), self._wake)
        self._volumes = Informer(client, core("persistentvolumes"), self._wake)

    def _wake(self, change: Change, item: JsonObject) -> None:
        del change, item
        self._changed.set()

    async def run(self) -> None:
        """Provision and delete until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claims.run(), name="claims")
            group.create_task(self._volumes.run(), name="volumes")
            while True:
                await self._changed.wait()
                self._changed.clear()
                try:
                    await self._reconcile()
                except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                    log.warning("provisioner: %s; trying again", error)
                    await asyncio.sleep(API_RETRY_SECONDS)
                    self._changed.set()

    async def _reconcile(self) -> None:
        for claim in [claim for claim in self._claims.items.values() if wants_volume(claim)]:
            volume = volume_for(claim, self._root)
            path = Path(volume["spec"]["hostPath"]["path"])
            await asyncio.to_thread(path.mkdir, parents=True, exist_ok=True)
            try:
                await self._client.create(core("persistentvolumes"), volume)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
        for volume in [volume for volume in self._volumes.items.values() if is_released(volume)]:
            path = Path(volume["spec"]["hostPath"]["path"])
            if path.is_relative_to(self._root) and ".." not in path.parts:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            try:
                await self._client.delete(core("persistentvolumes", None, volume["metadata"]["name"]))
            except ApiError as error:
                if error.status != 404:
                    raise
