"""Who asks: the user that kube-apiserver passes on, believed only from kube-apiserver itself.

The aggregator connects with its front-proxy client certificate and names the user in headers. The TLS layer has already
checked that a certificate, if there is one, chains to the request-header CA; what is left is its common name. Without
such a certificate the headers are worth nothing.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Headers(Protocol):
    """Request headers; names are compared without regard to case."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """All values of a header."""

    def items(self) -> Iterable[tuple[str, str]]:
        """All headers, one pair for each value."""


class ConfigurationError(ValueError):
    """The ConfigMap is not what kube-apiserver writes."""


class UnauthenticatedError(Exception):
    """The caller is not kube-apiserver, or names no user."""


@dataclass(frozen=True, slots=True)
class RequestHeaderConfig:
    """How front-proxy requests are recognised: ConfigMap kube-system/extension-apiserver-authentication.

    Attributes:
        client_ca: PEM bundle that the client certificate must chain to.
        allowed_names: Common names that it may have; empty allows any.
        username_headers: Headers that may hold the user's name, in order.
        group_headers: Headers that hold the groups.
        extra_prefixes: Prefixes of the headers with extra attributes.
        uid_headers: Headers that may hold the user's uid.
    """

    client_ca: str
    allowed_names: tuple[str, ...]
    username_headers: tuple[str, ...]
    group_headers: tuple[str, ...]
    extra_prefixes: tuple[str, ...]
    uid_headers: tuple[str, ...] = ()

    @classmethod
    def from_config_map(cls, data: Mapping[str, str]) -> RequestHeaderConfig:
        """Read the ConfigMap's data.

        Raises:
            ConfigurationError: If the CA is missing (aggregation is not configured in kube-apiserver) or a list is
                no JSON list of strings.
        """
        client_ca = data.get("requestheader-client-ca-file", "")
        if "BEGIN CERTIFICATE" not in client_ca:
            raise ConfigurationError(
                "requestheader-client-ca-file is missing; start kube-apiserver with --requestheader-client-ca-file"
            )
        return cls(
            client_ca=client_ca,
            allowed_names=_names(data, "requestheader-allowed-names"),
            username_headers=_names(data, "requestheader-username-headers"),
            group_headers=_names(data, "requestheader-group-headers"),
            extra_prefixes=_names(data, "requestheader-extra-headers-prefix"),
            uid_headers=_names(data, "requestheader-uid-headers"),
        )


def _names(data: Mapping[str, str], key: str) -> tuple[str, ...]:
    text = data.get(key) or "[]"
    try:
        names = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{key} is no JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"{key} is no list of names: {text[:80]!r}")
    return tuple(names)


@dataclass(frozen=True, slots=True)
class User:
    """Who kube-apiserver says is asking; hashable, so that it can be the key of a cache."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())


def common_name(certificate: Mapping[str, Any] | None) -> str | None:
    """The common name of a verified certificate, as `ssl.SSLObject.getpeercert` shows it; None without one.

    More than one is no name: which of them was meant must not be left to chance.
    """
    if not certificate:
        return None
    relative_names: Sequence[Sequence[tuple[str, str]]] = certificate.get("subject", ())
    names = [value for pairs in relative_names for key, value in pairs if key == "commonName"]
    return names[0] if len(names) == 1 else None


def identify(certificate: Mapping[str, Any] | None, headers: Headers, config: RequestHeaderConfig) -> User:
    """The user on whose behalf kube-apiserver asks.

    Args:
        certificate: The client certificate that TLS verified against `config.client_ca`, as a dictionary.
        headers: The request's headers.
        config: Whom to believe.

    Raises:
        UnauthenticatedError: If the certificate is absent or has a wrong name, or no user is named.
    """
    if not certificate:
        raise UnauthenticatedError("no client certificate; ask through kube-apiserver (kubectl get --raw)")
    name = common_name(certificate)
    if name is None or (config.allowed_names and name not in config.allowed_names):
        raise UnauthenticatedError(f"the client certificate's common name {name!r} is not allowed to pass on users")
    user = _first(headers, config.username_headers)
    if not user:
        raise UnauthenticatedError("the request names no user")
    return User(
        name=user,
        groups=tuple(value for header in config.group_headers for value in headers.getall(header, [])),
        uid=_first(headers, config.uid_headers),
        extra=_extra(headers, config.extra_prefixes),
    )


def _first(headers: Headers, names: Iterable[str]) -> str:
    return next((value for name in names for value in headers.getall(name, []) if value), "")


def _extra(headers: Headers, prefixes: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    extra: dict[str, list[str]] = {}
    for name, value in headers.items():
        for prefix in prefixes:
            if name.lower().startswith(prefix.lower()) and len(name) > len(prefix):
                extra.setdefault(unquote(name[len(prefix) :].lower()), []).append(value)
    return tuple((key, tuple(values)) for key, values in sorted(extra.items()))
