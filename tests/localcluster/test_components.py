"""Components of the control plane: whose death is told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from localcluster.components import Component, StatusBoard
from localcluster.errors import ComponentDiedError

if TYPE_CHECKING:
    from pathlib import Path


def component(name: str, script: str, folder: Path) -> Component:
    for part in ("logs", "pids"):
        (folder / part).mkdir(exist_ok=True)
    return Component(
        name,
        ("/bin/sh", "-c", script),
        address="",
        logs=folder / "logs",
        pids=folder / "pids",
        environment=dict(os.environ),
        board=StatusBoard(folder / "status.json"),
    )


async def never() -> bool:
    return False


async def test_a_death_below_is_told_as_the_cause(tmp_path: Path) -> None:
    store = component("etcd", "echo invalid database; exit 3", tmp_path)
    server = component("kube-apiserver", "exec sleep 60", tmp_path)
    await server.start()
    try:
        await store.start()
        with pytest.raises(ComponentDiedError, match="etcd died: exited with 3") as told:
            await server.wait_ready(never, needs=(store,))
        assert "invalid database" in str(told.value)
    finally:
        await server.stop()


async def test_its_own_death_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    server = component("kube-apiserver", "echo no such flag; exit 1", tmp_path)
    await server.start()
    with pytest.raises(ComponentDiedError, match="kube-apiserver died: exited with 1") as told:
        await server.wait_ready(never)
    assert "no such flag" in str(told.value)
