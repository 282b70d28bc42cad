"""A pod's volumes as folders on this machine."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from localcluster import kubeconfig
from localcluster.node.env import ConfigError, Sources, decode_config_map, decode_secret, field_value, resource_value
from localcluster.settings import (
    REWRITE_FILES_ANNOTATION,
    SERVICE_ACCOUNT_PATH,
    TOKEN_RENEWAL_FRACTION,
    JsonObject,
)
from localcluster.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

DEFAULT_MODE = 0o644
"""Mode of files whose source names none, the API's default."""

MAX_TOKEN_SECONDS = 3600
"""Life of a token whose source names none, the API's default."""


class MountError(Exception):
    """A volume cannot be mounted now; shown as a FailedMount event and tried again."""


@dataclass(frozen=True)
class VolumeFile:
    """One file of a volume.

    Attributes:
        rewritable: Whether the file comes from a ConfigMap.
    """

    content: bytes
    mode: int
    rewritable: bool = False


Files = dict[str, VolumeFile]


class ObjectSource(Protocol):
    """Reads the objects that volumes are made from."""

    async def config_map(self, namespace: str, name: str) -> JsonObject | None:
        """Return a ConfigMap, or None if it does not exist."""

    async def secret(self, namespace: str, name: str) -> JsonObject | None:
        """Return a Secret, or None if it does not exist."""

    async def claim_folder(self, namespace: str, name: str) -> Path:
        """Return the folder behind a PersistentVolumeClaim, or raise MountError."""

    async def token(self, pod: JsonObject, audience: str | None, seconds: int) -> tuple[str, datetime]:
        """Return a token of the pod's service account and when it expires."""


def checked_path(path: str) -> str:
    """Return a relative path inside a volume.

    Raises:
        MountError: If it leads out of the volume.
    """
    parsed = PurePosixPath(path)
    if parsed.is_absolute() or ".." in parsed.parts or not parsed.parts:
        msg = f"path {path!r} leads out of its volume"
        raise MountError(msg)
    return str(parsed)


def keyed_files(source: JsonObject, data: Mapping[str, bytes] | None, default_mode: int, what: str) -> Files:
    """Return the files of a ConfigMap or Secret source.

    Args:
        source: The volume source, with `items` and `optional`.
        data: Decoded content, or None if the object does not exist.
        default_mode: Mode of files that have none of their own.
        what: Kind and name, for messages.

    Raises:
        MountError: If the object or a key is missing and the source is not optional.
    """
    optional = bool(source.get("optional"))
    if data is None:
        if optional:
            return {}
        msg = f"{what} not found"
        raise MountError(msg)
    rewritable = what.startswith("configmap")
    items = source.get("items")
    if not items:
        return {name: VolumeFile(content, default_mode, rewritable) for name, content in data.items()}
    files: Files = {}
    for item in items:
        if item["key"] in data:
            mode = item.get("mode", default_mode)
            files[checked_path(item["path"])] = VolumeFile(data[item["key"]], mode, rewritable)
        elif not optional:
            msg = f"{what} has no key {item['key']!r}"
            raise MountError(msg)
    return files


def downward_files(source: JsonObject, sources: Sources, default_mode: int) -> Files:
    """Return the files of a downwardAPI source.

    Raises:
        MountError: If a field is not supported.
    """
    files: Files = {}
    for item in source.get("items", []):
        try:
            if "fieldRef" in item:
                value = field_value(sources.pod, item["fieldRef"]["fieldPath"])
            else:
                value = resource_value(item["resourceFieldRef"], {}, sources)
        except ConfigError as error:
            raise MountError(str(error)) from error
        files[checked_path(item["path"])] = VolumeFile(value.encode(), item.get("mode", default_mode))
    return files


def write_files(folder: Path, files: Mapping[str, VolumeFile]) -> None:
    """Make a folder hold exactly these files; unchanged ones are not touched, so a reader sees whole files only."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != file.content:
            # The owner may always read: without root nobody else could stand in for the pod's user.
            write_atomically(path, file.content, mode=file.mode | 0o400)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if str(path.relative_to(folder)) not in files:
            path.unlink()


@dataclass
class _Token:
    value: str
    renew_at: float


class PodVolumes:
    """Mounts the volumes of one pod and keeps them up to date."""

    def __init__(self, folder: Path, api_server: str, objects: ObjectSource, sources: Callable[[], Sources]) -> None:
        self._folder = folder
        self._api_server = api_server
        self._objects = objects
        self._sources = sources
        self._paths: dict[str, Path] = {}
        self._tokens: dict[tuple[str, str], _Token] = {}
        self.rewrite: Callable[[str], str] = str

    @property
    def _pod(self) -> JsonObject:
        return self._sources().pod

    def _folder_of(self, name: str) -> Path:
        return self._paths.get(name, self._folder / name)

    async def mount(self) -> None:
        """Mount every volume, or bring its files up to date.

        Raises:
            MountError: If a volume cannot be mounted.
        """
        for volume in self._pod["spec"].get("volumes", []):
            try:
                await self._mount_one(volume)
            except MountError as error:
                msg = f'MountVolume.SetUp failed for volume "{volume["name"]}": {error}'
                raise MountError(msg) from error

    async def _mount_one(self, volume: JsonObject) -> None:
        folder = self._folder / volume["name"]
        if "emptyDir" in volume:
            folder.mkdir(parents=True, exist_ok=True)
        elif "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            namespace = self._pod["metadata"]["namespace"]
            self._paths[volume["name"]] = await self._objects.claim_folder(namespace, claim)
        else:
            files = await self._files(volume)
            if self._is_service_account(volume["name"]) and "token" in files:
                config = kubeconfig.with_token_file(self._api_server, folder, self._pod["metadata"]["namespace"])
                files["kubeconfig"] = VolumeFile(config.encode(), DEFAULT_MODE)
            write_files(folder, self._rewritten(files))

    def _rewritten(self, files: Files) -> Files:
        annotations = self._pod["metadata"].get("annotations") or {}
        if annotations.get(REWRITE_FILES_ANNOTATION) != "true":
            return files
        return {name: self._rewrite_file(file) if file.rewritable else file for name, file in files.items()}

    def _rewrite_file(self, file: VolumeFile) -> VolumeFile:
        try:
            text = file.content.decode()
        except UnicodeDecodeError:
            return file
        return VolumeFile(self.rewrite(text).encode(), file.mode, file.rewritable)

    def _is_service_account(self, name: str) -> bool:
        return any(
            mount["name"] == name and mount["mountPath"].rstrip("/") == SERVICE_ACCOUNT_PATH
            for container in all_containers(self._pod)
            for mount in container.get("volumeMounts", [])
        )

    async def _files(self, volume: JsonObject) -> Files:
        if "projected" in volume:
            mode = volume["projected"].get("defaultMode", DEFAULT_MODE)
            files: Files = {}
            for source in volume["projected"].get("sources", []):
                files.update(await self._source_files(source, volume["name"], mode))
            return files
        for kind in ("configMap", "secret", "downwardAPI"):
            if kind in volume:
                mode = volume[kind].get("defaultMode", DEFAULT_MODE)
                return await self._source_files({kind: volume[kind]}, volume["name"], mode)
        kind = next((key for key in volume if key != "name"), "unknown")
        msg = f"volumes of type {kind} are not offered by the process node"
        raise MountError(msg)

    async def _source_files(self, source: JsonObject, volume: str, mode: int) -> Files:
        namespace = self._pod["metadata"]["namespace"]
        if "configMap" in source:
            name = source["configMap"]["name"]
            config_map = await self._objects.config_map(namespace, name)
            data = None if config_map is None else decode_config_map(config_map)
            return keyed_files(source["configMap"], data, mode, f'configmap "{name}"')
        if "secret" in source:
            name = source["secret"].get("secretName") or source["secret"]["name"]
            secret = await self._objects.secret(namespace, name)
            return keyed_files(
                source["secret"], None if secret is None else decode_secret(secret), mode, f'secret "{name}"'
            )
        if "downwardAPI" in source:
            return downward_files(source["downwardAPI"], self._sources(), mode)
        if "serviceAccountToken" in source:
            token = source["serviceAccountToken"]
            value = await self._token(volume, token)
            return {checked_path(token["path"]): VolumeFile(value.encode(), 0o600)}
        msg = f"projected source {sorted(source)} is not offered by the process node"
        raise MountError(msg)

    async def _token(self, volume: str, source: JsonObject) -> str:
        key = (volume, source["path"])
        known = self._tokens.get(key)
        if known is None or time.time() > known.renew_at:
            seconds = source.get("expirationSeconds", MAX_TOKEN_SECONDS)
            value, expires = await self._objects.token(self._pod, source.get("audience"), seconds)
            life = expires.timestamp() - time.time()
            known = self._tokens[key] = _Token(value, time.time() + life * TOKEN_RENEWAL_FRACTION)
        return known.value

    def mounts(self, container: JsonObject) -> dict[str, str]:
        """Return mount path → folder or file for one container.

        Raises:
            MountError: If a mount uses what the node does not offer.
        """
        found: dict[str, str] = {}
        for mount in container.get("volumeMounts", []):
            folder = self._folder_of(mount["name"])
            if mount.get("subPathExpr"):
                msg = f"volumeMounts {mount['mountPath']}: subPathExpr is not offered by the process node"
                raise MountError(msg)
            if mount.get("subPath"):
                folder /= checked_path(mount["subPath"])
                if not folder.exists() and self._is_directory_volume(mount["name"]):
                    folder.mkdir(parents=True)
            found[mount["mountPath"]] = str(folder)
        return found

    def _is_directory_volume(self, name: str) -> bool:
        volume: JsonObject = next((item for item in self._pod["spec"].get("volumes", []) if item["name"] == name), {})
        return "emptyDir" in volume or "persistentVolumeClaim" in volume

    def service_account(self, container: JsonObject) -> Path | None:
        """Return the kubeconfig of the container's service account, or None if none is mounted."""
        for mount in container.get("volumeMounts", []):
            if mount["mountPath"].rstrip("/") == SERVICE_ACCOUNT_PATH:
                path = self._folder_of(mount["name"]) / "kubeconfig"
                return path if path.exists() else None
        return None

    async def remove(self) -> None:
        """Delete the pod's own folders; persistent volumes stay."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def all_containers(pod: JsonObject) -> list[JsonObject]:
    """Return init containers and containers of a pod."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
