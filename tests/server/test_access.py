"""Credentials against the real server process, with an identity provider on loopback."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.hostile_corpus import encoded, picture
from tests.unit.depth_server import token_forge
from tests.unit.depth_server.issuer_server import IssuerServer
from tests.unit.depth_server.token_forge import forged_tokens, valid_token

pytestmark = pytest.mark.server

PHOTO = encoded(picture(), "JPEG")
SECONDS = 60.0
KEY = "camera-key-" * 4


@pytest.fixture
def issuer() -> Iterator[IssuerServer]:
    with IssuerServer() as server:
        yield server


def predict(client: httpx.Client, headers: dict[str, str] | None = None, data: bytes = PHOTO) -> httpx.Response:
    return client.post("/predict", files={"file": data}, headers=headers)


def test_only_valid_tokens_get_a_depth_map(start_server: Any, issuer: IssuerServer) -> None:
    server = start_server(
        AUTH="jwt",
        AUTH_REQUIRED_SCOPES="depth:predict",
        JWT_ISSUER=token_forge.ISSUER,
        JWT_AUDIENCE=token_forge.AUDIENCE,
        JWT_JWKS_URL=issuer.url,
        JWKS_ALLOW_LOOPBACK_HTTP="true",
        LOG_LEVEL="DEBUG",
    )
    with httpx.Client(base_url=server.wait_for_ready(), timeout=SECONDS) as client:
        assert predict(client, {"Authorization": f"Bearer {valid_token()}"}).status_code == 200
        assert predict(client, {"Authorization": f"Bearer {token_forge.valid_ec_token()}"}).status_code == 200
        missing = predict(client, data=bytes(5_000_000))
        assert missing.status_code == 401
        assert missing.headers["www-authenticate"] == 'Bearer realm="depth-server"'
        assert predict(client, {"Authorization": f"Bearer {valid_token(scope='other')}"}).status_code == 403
        for name, token in forged_tokens().items():
            response = predict(client, {"Authorization": f"Bearer {token}"})
            # A megabyte of header is refused before it is anybody's token.
            assert response.status_code in ({400} if len(token) > 2**16 else {401}), (name, response.text)
            assert response.headers["content-type"] == "application/problem+json", name
        metrics = client.get("/metrics").text
        assert client.get("/readyz").status_code == 200
    assert re.search(r"^depth_server_images_total 2\.0$", metrics, re.MULTILINE)
    assert issuer.asked <= 3
    assert "Traceback" not in server.log
    assert valid_token().split(".", maxsplit=1)[0] not in server.log


def test_only_known_api_keys_get_a_depth_map(start_server: Any, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"camera-7 sha256:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    server = start_server(AUTH="api-key", API_KEYS_FILE=str(path))
    with httpx.Client(base_url=server.wait_for_ready(), timeout=SECONDS) as client:
        assert predict(client).status_code == 401
        assert predict(client, {"X-API-Key": KEY + "x"}).status_code == 401
        assert predict(client, {"X-API-Key": KEY}).status_code == 200


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AUTH": "jwt"}, "DEPTH_SERVER_AUTH=jwt needs DEPTH_SERVER_JWT_ISSUER"),
        ({"AUTH": "api-key"}, "DEPTH_SERVER_AUTH=api-key needs DEPTH_SERVER_API_KEYS_FILE"),
        ({"AUTH": "api-key", "API_KEYS_FILE": "/nowhere/keys"}, "DEPTH_SERVER_API_KEYS_FILE=/nowhere/keys"),
        (
            {"AUTH": "jwt", "JWT_ISSUER": "i", "JWT_AUDIENCE": "a", "JWT_JWKS_URL": "http://issuer.example/"},
            "keys are fetched over https only",
        ),
        (
            {"AUTH": "jwt", "JWT_ISSUER": "i", "JWT_AUDIENCE": "a", "JWT_KEY_FILE": "/k", "JWT_ALGORITHMS": "HS256"},
            "DEPTH_SERVER_JWT_ALGORITHMS names HS256",
        ),
    ],
)
def test_a_server_that_could_not_tell_friend_from_foe_does_not_start(
    start_server: Any, variables: dict[str, str], message: str
) -> None:
    server = start_server(**variables)
    assert server.wait_for_exit() == 1
    assert server.termination_message.startswith("InvalidSettings: ")
    assert message in server.termination_message
