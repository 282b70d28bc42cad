"""kopf reaches the API server with the same credentials as the operator's own requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from depth_operator.run import connection

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_token_file_of_the_kubeconfig_is_what_kopf_authenticates_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    secret = "of-the-service-account"  # noqa: S105 - made up
    token.write_text(secret)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443"}}],
                "users": [{"name": "u", "user": {"tokenFile": str(token)}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))

    info = connection()

    assert info.server == "https://127.0.0.1:6443"
    assert info.token == secret
    assert info.scheme == "Bearer"
