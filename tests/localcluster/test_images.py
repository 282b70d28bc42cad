from __future__ import annotations

from pathlib import Path

import pytest

from localcluster.node.images import (
    CommandLine,
    ImageTable,
    base_environment,
    command_line,
    gpu_environment,
    image_name,
)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nginx", "nginx"),
        ("nginx:1.29", "nginx"),
        ("docker.io/library/nginx:1.29", "nginx"),
        ("docker.io/prom/prometheus:v3", "prom/prometheus"),
        ("ghcr.io/depthserving/depth-server:0.1.0", "ghcr.io/depthserving/depth-server"),
        ("ghcr.io/depthserving/depth-server@sha256:abc", "ghcr.io/depthserving/depth-server"),
        ("ghcr.io/depthserving/depth-server:1@sha256:abc", "ghcr.io/depthserving/depth-server"),
        ("registry.example:5000/a/b:1", "registry.example:5000/a/b"),
        ("registry.example:5000/a/b", "registry.example:5000/a/b"),
    ],
)
def test_name_has_neither_tag_nor_digest(image: str, name: str) -> None:
    assert image_name(image) == name


def test_own_entry_wins_over_the_built_in_one() -> None:
    table = ImageTable("/py", {"nginx:2": ["my-nginx"]})
    found = table.find("nginx:1")
    assert found is not None
    assert found.command == ("my-nginx",)
    assert table.find("nobody") is None


def test_server_image_starts_the_package_of_this_checkout() -> None:
    program = ImageTable("/py", {}).find("ghcr.io/depthserving/depth-server:0.1.0")
    assert program is not None
    assert program.command == ("/py", "-m", "depth_server")


def test_command_replaces_and_args_follow() -> None:
    program = ImageTable("/py", {"x": ["a", "b"]}).find("x")
    assert program is not None
    assert command_line(program, {}) == CommandLine(("a", "b"), ())
    assert command_line(program, {"args": ["c"]}) == CommandLine(("a", "b"), ("c",))
    assert command_line(program, {"command": ["d"]}) == CommandLine((), ("d",))
    assert command_line(program, {"command": ["d"], "args": ["c"]}) == CommandLine((), ("d", "c"))


def test_environment_is_that_of_the_checkout_and_of_nobody_else() -> None:
    environment = base_environment("/venv/bin/python", Path("/repo"), Path("/state/bin"))
    assert environment["PATH"].startswith("/state/bin:/venv/bin:")
    assert environment["PYTHONPATH"] == "/repo/operator:/repo/inference_server"
    assert environment["PYTHONSAFEPATH"] == "1"
    assert not {name for name in environment if name.startswith("KUBERNETES_")}


@pytest.mark.parametrize(
    ("allocated", "devices", "visible"),
    [((), 4, ""), ((2,), 4, "2"), ((2, 3), 4, "2,3"), ((7,), 4, "3"), ((0, 4), 4, "0"), ((5,), 0, "")],
)
def test_container_sees_its_gpus_only(allocated: tuple[int, ...], devices: int, visible: str) -> None:
    assert gpu_environment(allocated, devices)["CUDA_VISIBLE_DEVICES"] == visible
