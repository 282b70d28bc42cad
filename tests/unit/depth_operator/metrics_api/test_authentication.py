from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from depth_operator.metrics_api.authentication import (
    ConfigurationError,
    RequestHeaderConfig,
    UnauthenticatedError,
    User,
    common_name,
    identify,
)

PEM = "-----BEGIN CERTIFICATE-----\n"
DATA = {
    "requestheader-client-ca-file": PEM,
    "requestheader-allowed-names": '["front-proxy-client"]',
    "requestheader-username-headers": '["X-Remote-User"]',
    "requestheader-group-headers": '["X-Remote-Group"]',
    "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
    "requestheader-uid-headers": '["X-Remote-Uid"]',
}


def certificate(*names: str) -> dict[str, Any]:
    return {"subject": tuple((("commonName", name),) for name in names)}


def test_a_user_with_all_attributes() -> None:
    headers = CIMultiDict(
        [
            ("x-remote-user", "ann"),
            ("X-Remote-Group", "a"),
            ("X-Remote-Group", "b"),
            ("X-Remote-Uid", "7"),
            ("X-Remote-Extra-example.com%2fscopes", "read"),
            ("X-Remote-Extra-Example.com%2Fscopes", "list"),
        ]
    )

    user = identify(certificate("front-proxy-client"), headers, RequestHeaderConfig.from_config_map(DATA))

    assert user == User("ann", ("a", "b"), "7", (("example.com/scopes", ("read", "list")),))


@pytest.mark.parametrize("peer", [None, {}, certificate(), certificate("x"), certificate("front-proxy-client", "x")])
def test_who_is_not_kube_apiserver(peer: dict[str, Any] | None) -> None:
    config = RequestHeaderConfig.from_config_map(DATA)

    with pytest.raises(UnauthenticatedError):
        identify(peer, CIMultiDict({"X-Remote-User": "system:admin"}), config)


def test_common_name_is_found_among_others() -> None:
    subject = ((("organizationName", "o"),), (("commonName", "cn"),))

    assert common_name({"subject": subject}) == "cn"


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("requestheader-client-ca-file", "", "start kube-apiserver with --requestheader-client-ca-file"),
        ("requestheader-allowed-names", "front-proxy-client", "requestheader-allowed-names is no JSON"),
        ("requestheader-username-headers", '{"a": 1}', "requestheader-username-headers is no list of names"),
        ("requestheader-group-headers", "[1]", "requestheader-group-headers is no list of names"),
    ],
)
def test_a_config_map_that_cannot_be_meant(key: str, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RequestHeaderConfig.from_config_map({**DATA, key: text})
