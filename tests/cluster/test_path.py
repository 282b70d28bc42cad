"""The main job: a manifest becomes an endpoint that follows its load, rolls out changes, and leaves nothing behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from demo import path, picture
from demo.commands import wait_until
from demo.load import Load
from tests.cluster.manifests import apply, depth_service

if TYPE_CHECKING:
    from pathlib import Path

    from demo.commands import Commands

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "whole-path"


def said(_: str) -> None:
    """The test's steps report nothing while they wait; a time-out dumps what is there."""


def children(commands: Commands, name: str) -> list[str]:
    """Everything that belongs to the DepthService, as kind/name."""
    text = commands.kubectl(
        "get",
        "deployments,replicasets,pods,services,horizontalpodautoscalers,endpointslices",
        f"--selector=app.kubernetes.io/instance={name}",
        "--output=name",
    )
    return text.split()


def test_from_manifest_to_depth_map_to_replicas_and_back_to_nothing(
    installed: Commands, photograph: bytes, tmp_path: Path
) -> None:
    commands = installed

    apply(commands, depth_service(NAME), tmp_path)
    path.wait_ready(commands, NAME, said)
    url = path.endpoint(commands, NAME)

    answer = path.predict(url, photograph)
    depth = picture.decode_depth(answer)
    assert depth.shape == (answer["height"], answer["width"]) == (427, 640)
    assert np.isfinite(depth).all()
    assert depth.std() > 0, "a flat picture is no depth map"
    assert answer["kind"] == "relative_inverse"
    assert answer["model"] == "depth_anything_v2_vitt14"

    with Load(f"{url}/predict", photograph, clients=4, max_seconds=path.SCALE_TIMEOUT_SECONDS) as load:
        risen = path.wait_replicas(commands, NAME, lambda now: now.ready >= 2, what="replicas rising", say=said)
    assert risen.specified >= 2
    assert load.answers[200] > 0
    assert not [status for status in load.answers if status not in {200, 429}], load.answers

    path.wait_replicas(commands, NAME, lambda now: now.specified == 1, what="replicas falling", say=said)

    before = commands.get("deployment", NAME)
    assert before is not None
    changed = depth_service(NAME)
    changed["spec"]["runtime"]["inputSize"] = 140
    with Load(f"{url}/predict", photograph, clients=1, max_seconds=path.SCALE_TIMEOUT_SECONDS) as load:
        apply(commands, changed, tmp_path)
        path.wait_ready(commands, NAME, said)
    assert set(load.answers) == {200}, "a rollout lost requests"
    after = commands.get("deployment", NAME)
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"], "a change must not replace the Deployment"
    environment = {
        item["name"]: item.get("value") for item in after["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert environment["DEPTH_SERVER_INPUT_SIZE"] == "140"
    assert path.predict(url, photograph)["width"] == 640

    commands.kubectl("delete", "depthservice", NAME, "--wait=true", "--timeout=60s")
    wait_until(
        lambda: children(commands, NAME) == [],
        what="everything of the deleted DepthService being gone",
        timeout_seconds=90,
        explain=lambda: "\n".join(children(commands, NAME)),
    )


def test_the_table_reads_like_a_product(installed: Commands, tmp_path: Path) -> None:
    apply(installed, depth_service("table"), tmp_path)
    path.wait_ready(installed, "table", said)
    header, row = installed.kubectl("get", "dsvc", "table").splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "REPLICAS", "DESIRED", "MODEL", "URL", "AGE"]
    assert row.split()[:2] == ["table", "True"]
    assert "depth_anything_v2_vitt14" in row
    assert "http://table.default.svc" in row
    installed.kubectl("delete", "depthservice", "table")


@pytest.mark.parametrize(
    ("name", "change", "reason", "hint"),
    [
        ("no-weights", {"path": "absent.safetensors"}, "WeightsNotFound", "absent.safetensors"),
        ("wrong-variant", {"variant": "ViTB14"}, "ModelMismatch", "ViTT14"),
    ],
)
def test_weights_that_do_not_fit_are_told_in_the_table(
    installed: Commands, tmp_path: Path, name: str, change: dict[str, str], reason: str, hint: str
) -> None:
    manifest = depth_service(name)
    model = manifest["spec"]["model"]
    if "variant" in change:
        model["variant"] = change["variant"]
    else:
        model["source"]["persistentVolumeClaim"]["path"] = change["path"]
    apply(installed, manifest, tmp_path)
    wait_until(
        lambda: path.ready_condition(installed, name)[:2] == ("False", reason),
        what=f"Ready=False with {reason}",
        timeout_seconds=120,
        explain=lambda: installed.kubectl("get", "depthservice,pods", "--output=yaml"),
    )
    assert hint in path.ready_condition(installed, name)[2]
    assert reason in installed.kubectl("get", "dsvc", name)
    installed.kubectl("delete", "depthservice", name)


def test_a_manifest_with_a_wrong_field_is_refused_with_its_path(installed: Commands, tmp_path: Path) -> None:
    manifest = depth_service("refused")
    manifest["spec"]["runtime"]["inputSize"] = 519
    file = tmp_path / "refused.json"
    file.write_text(json.dumps(manifest))
    with pytest.raises(Exception, match=r"spec\.runtime\.inputSize"):
        installed.kubectl("apply", "--filename", str(file))
