"""Makes a container's text true on this machine: mount paths, 0.0.0.0, cluster addresses and Service names.

Pure: everything that must be looked up is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from localcluster.network import ClusterNetwork, reach, reach_port

ResolveService = Callable[[str, str], str | None]
"""Namespace and name of a Service → its cluster address, or None if there is no such Service (or it is headless)."""

_ADDRESS = r"(?<![\w.])(?P<address>\d{1,3}(?:\.\d{1,3}){3})(?![\w.]*\w|/\d)(?::(?P<address_port>\d{1,5})(?!\w))?"
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SERVICE = (
    rf"(?<![\w.\-])(?P<service>{_LABEL})\.(?P<namespace>{_LABEL})\.svc(?:\.cluster\.local)?"
    r"(?![\w\-]|\.\w)(?::(?P<service_port>\d{1,5})(?!\w))?"
)
_NOT_A_ROOT = r"(?:(?<=file://)|(?<![\w.\-/~\]})*@%+]))"
"""A path begins here: not inside a longer path, a URL or an expansion; `file://` is followed by a path."""

_SCHEME_PORTS = {"http://": 80, "https://": 443}


@dataclass(frozen=True)
class Rewriter:
    """Rewrites the texts of one container.

    Attributes:
        mounts: Mount path → folder (or file) on this machine.
        pod_address: The pod's loopback address, which stands for 0.0.0.0.
        network: Networks whose literal addresses follow rule 1.
        resolve: Looks up a Service's cluster address.
    """

    mounts: Mapping[str, str]
    pod_address: str
    network: ClusterNetwork
    resolve: ResolveService

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # Longest first, so that a mount inside a mount wins; one pass, so that no replacement is rewritten again.
        mounts = sorted((mount for mount in self._normalised if mount), key=len, reverse=True)
        paths = "|".join(re.escape(mount) for mount in mounts)
        path = [rf"{_NOT_A_ROOT}(?P<path>{paths})(?![\w.\-])"] if paths else []
        return re.compile("|".join([*path, rf"(?P<scheme>https?://)?(?:{_SERVICE}|{_ADDRESS})"]))

    @cached_property
    def _normalised(self) -> dict[str, str]:
        return {mount.rstrip("/"): folder for mount, folder in self.mounts.items()}

    def text(self, value: str) -> str:
        """Return the text with everything replaced."""
        return self._pattern.sub(self._replace, value)

    def path(self, value: str) -> str | None:
        """Return where an absolute path lies if it is at or under a mount, else None."""
        rewritten = self.text(value)
        return None if rewritten == value else rewritten

    def _replace(self, match: re.Match[str]) -> str:
        groups = match.groupdict()
        if groups.get("path"):
            return self._normalised[groups["path"]]
        scheme = groups["scheme"] or ""
        if groups["service"]:
            address = self.resolve(groups["namespace"], groups["service"])
            port = groups["service_port"]
        else:
            address, port = groups["address"], groups["address_port"]
        if address == "0.0.0.0":  # noqa: S104 - the literal is what is being replaced
            return _join(scheme, self.pod_address, port)
        if address is None or not self.network.contains(address):
            return match.group(0)
        return _join(scheme, reach(address, 0)[0], port)


def _join(scheme: str, host: str, port: str | None) -> str:
    number = int(port) if port else _SCHEME_PORTS.get(scheme)
    return f"{scheme}{host}" if number is None else f"{scheme}{host}:{reach_port(number)}"


def service_names(value: str) -> set[tuple[str, str]]:
    """Return namespace and name of every Service that a text names."""
    return {(match["namespace"], match["service"]) for match in re.finditer(_SERVICE, value)}
