from __future__ import annotations

import base64
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from localcluster.node.env import Sources
from localcluster.node.volumes import MountError, PodVolumes, VolumeFile, checked_path, keyed_files, write_files

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class Objects:
    """ConfigMaps and Secrets by name; tokens are numbered."""

    def __init__(self, folder: Path) -> None:
        self.config_maps: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, dict[str, Any]] = {}
        self.folder = folder
        self.tokens = 0
        self.life = timedelta(hours=1)

    async def config_map(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.config_maps.get(f"{namespace}/{name}")

    async def secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        return self.secrets.get(f"{namespace}/{name}")

    async def claim_folder(self, namespace: str, name: str) -> Path:
        return self.folder / "pvc" / namespace / name

    async def token(self, pod: dict[str, Any], audience: str | None, seconds: int) -> tuple[str, datetime]:
        self.tokens += 1
        return f"token {self.tokens} for {pod['metadata']['name']} {audience} {seconds}", datetime.now(UTC) + self.life


def volumes_of(
    folder: Path, volumes: list[dict[str, Any]], mounts: dict[str, str] | None = None, **metadata: Any
) -> tuple[PodVolumes, Objects, dict[str, Any]]:
    container = {
        "name": "c",
        "volumeMounts": [{"name": name, "mountPath": path} for path, name in (mounts or {}).items()],
    }
    pod = {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", **metadata},
        "spec": {"containers": [container], "volumes": volumes},
    }
    objects = Objects(folder)
    return PodVolumes(folder / "v", "https://api", objects, lambda: Sources(pod)), objects, container


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "", "."])
def test_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(MountError, match="leads out"):
        checked_path(path)


def test_items_choose_rename_and_set_modes() -> None:
    source = {"items": [{"key": "a", "path": "deep/b", "mode": 0o400}]}
    files = keyed_files(source, {"a": b"1", "c": b"2"}, 0o644, 'secret "s"')
    assert files == {"deep/b": VolumeFile(b"1", 0o400)}


def test_missing_key_is_named_unless_optional() -> None:
    items = [{"key": "absent", "path": "x"}]
    with pytest.raises(MountError, match="secret \"s\" has no key 'absent'"):
        keyed_files({"items": items}, {}, 0o644, 'secret "s"')
    assert keyed_files({"items": items, "optional": True}, {}, 0o644, 'secret "s"') == {}
    assert keyed_files({"optional": True}, None, 0o644, 'secret "s"') == {}


def test_folder_holds_exactly_the_files(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": VolumeFile(b"1", 0o600), "sub/b": VolumeFile(b"2", 0o644)})
    unchanged = (tmp_path / "a").stat().st_ino
    write_files(tmp_path, {"a": VolumeFile(b"1", 0o600)})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]
    assert (tmp_path / "a").stat().st_ino == unchanged
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


async def test_changed_config_map_reaches_the_file(tmp_path: Path) -> None:
    volumes, objects, container = volumes_of(
        tmp_path, [{"name": "conf", "configMap": {"name": "conf"}}], {"/etc/conf": "conf"}
    )
    objects.config_maps["n/conf"] = {"data": {"a": "1"}, "binaryData": {"b": base64.b64encode(b"\xff").decode()}}
    await volumes.mount()
    folder = Path(volumes.mounts(container)["/etc/conf"])
    assert ((folder / "a").read_text(), (folder / "b").read_bytes()) == ("1", b"\xff")
    objects.config_maps["n/conf"] = {"data": {"a": "2"}}
    await volumes.mount()
    assert (folder / "a").read_text() == "2"
    assert not (folder / "b").exists()


@pytest.mark.parametrize(("annotation", "content"), [("true", "REWRITTEN"), ("false", "plain"), (None, "plain")])
async def test_files_of_config_maps_are_rewritten_on_request(
    tmp_path: Path, annotation: str | None, content: str
) -> None:
    annotations = {"localcluster.depthserving.dev/rewrite-files": annotation} if annotation else {}
    declared = [{"name": "conf", "configMap": {"name": "conf"}}, {"name": "sec", "secret": {"secretName": "sec"}}]
    volumes, objects, _ = volumes_of(tmp_path, declared, annotations=annotations)
    volumes.rewrite = lambda text: text.replace("plain", "REWRITTEN")
    objects.config_maps["n/conf"] = {"data": {"a": "plain"}}
    objects.secrets["n/sec"] = {"data": {"a": base64.b64encode(b"plain").decode()}}
    await volumes.mount()
    assert (tmp_path / "v/conf/a").read_text() == content
    assert (tmp_path / "v/sec/a").read_text() == "plain"


TOKEN = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}


async def test_service_account_folder_has_a_kubeconfig(tmp_path: Path) -> None:
    declared = [{"name": "account", "projected": {"sources": [TOKEN]}}]
    volumes, _, container = volumes_of(tmp_path, declared, {SERVICE_ACCOUNT: "account"})
    await volumes.mount()
    path = volumes.service_account(container)
    assert path is not None
    config = json.loads(path.read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://api"
    assert config["users"][0]["user"] == {"tokenFile": str(path.with_name("token"))}
    assert path.with_name("token").read_text() == "token 1 for p None 3607"
    assert stat.S_IMODE(path.with_name("token").stat().st_mode) == 0o600


async def test_token_is_renewed_towards_its_end_and_not_before(tmp_path: Path) -> None:
    volumes, objects, _ = volumes_of(tmp_path, [{"name": "account", "projected": {"sources": [TOKEN]}}])
    await volumes.mount()
    await volumes.mount()
    assert objects.tokens == 1
    objects.life = timedelta(seconds=-1)
    volumes, objects, _ = volumes_of(tmp_path, [{"name": "account", "projected": {"sources": [TOKEN]}}])
    objects.life = timedelta(seconds=-1)
    await volumes.mount()
    await volumes.mount()
    assert objects.tokens == 2


async def test_volume_that_is_not_offered_is_named(tmp_path: Path) -> None:
    volumes, _, _ = volumes_of(tmp_path, [{"name": "root", "hostPath": {"path": "/"}}])
    with pytest.raises(MountError, match='volume "root": volumes of type hostPath are not offered'):
        await volumes.mount()


async def test_sub_path_is_a_part_of_the_volume(tmp_path: Path) -> None:
    volumes, _, container = volumes_of(tmp_path, [{"name": "work", "emptyDir": {}}], {"/scratch": "work"})
    container["volumeMounts"][0]["subPath"] = "inner"
    await volumes.mount()
    assert volumes.mounts(container) == {"/scratch": str(tmp_path / "v/work/inner")}
    assert (tmp_path / "v/work/inner").is_dir()
    container["volumeMounts"][0]["subPath"] = "../out"
    with pytest.raises(MountError, match="leads out"):
        volumes.mounts(container)
