"""Image name → program: what stands in for an image on this node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Program:
    """What an image runs.

    Attributes:
        command: The image's entry point; a container's `command` replaces it.
        termination_variable: Environment variable by which the program learns where its termination message goes.
    """

    command: tuple[str, ...]
    termination_variable: str | None = None


def image_name(image: str) -> str:
    """Return an image's name without tag, digest and the default registry's prefix."""
    name = image.split("@", 1)[0]
    head, slash, last = name.rpartition("/")
    name = head + slash + last.split(":", 1)[0]
    for prefix in ("docker.io/", "index.docker.io/", "library/"):
        name = name.removeprefix(prefix)
    return name


def default_table(python: str) -> dict[str, Program]:
    """Return the built-in programs.

    Args:
        python: The interpreter that runs the packages of this checkout.
    """
    server = Program((python, "-m", "depth_server"), "DEPTH_SERVER_TERMINATION_MESSAGE_PATH")
    operator = Program((python, "-m", "depth_operator"))
    nginx = Program(("nginx", "-g", "daemon off;"))
    return {
        "ghcr.io/depthserving/depth-server": server,
        "ghcr.io/depthserving/depth-operator": operator,
        "prom/prometheus": Program(("prometheus",)),
        "quay.io/prometheus/prometheus": Program(("prometheus",)),
        "prometheus": Program(("prometheus",)),
        "nginx": nginx,
        "nginxinc/nginx-unprivileged": nginx,
        "redis": Program(("redis-server",)),
        "busybox": Program(("sh",)),
        "python": Program((python,)),
    }


class ImageTable:
    """Looks images up: the user's entries first, then the built-in ones."""

    def __init__(self, python: str, extra: Mapping[str, Sequence[str]]) -> None:
        own = {image_name(name): Program(tuple(command)) for name, command in extra.items()}
        self._programs = {**default_table(python), **own}

    def find(self, image: str) -> Program | None:
        """Return the program of an image, or None if the image is unknown."""
        return self._programs.get(image_name(image))

    def names(self) -> list[str]:
        """Return the known names, for messages."""
        return sorted(self._programs)


@dataclass(frozen=True)
class CommandLine:
    """What is to be executed: `own` then `given`.

    Attributes:
        own: Parts of the image's program. Paths of this machine, which hold no path of the container.
        given: Parts that the pod names, in the container's terms.
    """

    own: tuple[str, ...]
    given: tuple[str, ...]


def command_line(program: Program, container: Mapping[str, object]) -> CommandLine:
    """Combine an image's command with a container's `command` and `args`.

    `command` replaces the image's command; `args` follow either
    (https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/).
    """
    command, args = (_texts(container.get(name)) for name in ("command", "args"))
    return CommandLine(() if command else program.command, command + args)


def _texts(parts: object) -> tuple[str, ...]:
    return tuple(str(part) for part in parts) if isinstance(parts, list) else ()


def base_environment(python: str, repository: Path, programs: Path) -> dict[str, str]:
    """Return the environment of every container: small, and the same whoever starts the cluster.

    PYTHONSAFEPATH keeps the working folder off `sys.path`: the checkout's folder `operator` would otherwise hide
    the standard library's module of that name.
    """
    return {
        "PATH": f"{programs}:{Path(python).parent}:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin",
        "LANG": "C.UTF-8",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{repository / 'operator'}:{repository / 'inference_server'}",
    }


def gpu_environment(allocated: Sequence[int], real_devices: int) -> dict[str, str]:
    """Return what makes a container see its GPUs and no other.

    The node may advertise more GPUs than the machine has; then several containers share a device. A container
    that asked for none sees none, as under a device plugin.
    """
    visible = sorted({index % real_devices for index in allocated}) if real_devices else []
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, visible)),
        "NVIDIA_VISIBLE_DEVICES": ",".join(map(str, allocated)) or "void",
    }
