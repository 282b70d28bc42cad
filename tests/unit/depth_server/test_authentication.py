"""Credentials in front of the whole application: what passes, what is refused and how it is said."""

import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket

from depth_server.access import add_access_control
from depth_server.access_settings import AccessSettings
from depth_server.auth import PUBLIC_PATHS
from depth_server.errors import StartupError, StartupReason
from depth_server.jwt_tokens import MAX_TOKEN_BYTES
from tests.unit.depth_server import token_forge
from tests.unit.depth_server.issuer_server import IssuerServer
from tests.unit.depth_server.token_forge import forged_tokens, jwks, rsa_jwk, rsa_key, valid_token

KEY = "camera-key-" * 4


@pytest.fixture
def issuer() -> Iterator[IssuerServer]:
    with IssuerServer() as server:
        yield server


class Guarded:
    """An application behind credentials; `reached` counts the requests that came through."""

    def __init__(self, **settings: Any) -> None:
        self.app = FastAPI()
        self.reached: list[str] = []
        self.refusals: Counter[str] = Counter()

        @self.app.api_route("/{path:path}", methods=["GET", "POST"])
        async def anything(path: str, request: Request) -> dict[str, Any]:
            self.reached.append(path)
            principal = getattr(request.state, "principal", None)
            return {"subject": principal and principal.subject, "scopes": sorted(principal.scopes) if principal else []}

        add_access_control(self.app, AccessSettings(**settings), self._count)

    def _count(self, reason: str) -> None:
        self.refusals[reason] += 1

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://depth") as client:
            yield client


def jwt_settings(issuer: IssuerServer, **more: Any) -> dict[str, Any]:
    return {
        "auth": "jwt",
        "jwt_issuer": token_forge.ISSUER,
        "jwt_audience": token_forge.AUDIENCE,
        "jwt_jwks_url": issuer.url,
        "jwks_allow_loopback_http": True,
        **more,
    }


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def assert_refused(response: httpx.Response, status: int, slug: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:depthserving:problem:{slug}"
    assert response.headers["www-authenticate"].startswith('Bearer realm="depth-server"')
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_valid_token_passes_and_tells_who_it_is(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    async with guarded.client() as client:
        response = await client.post("/predict", headers=bearer(valid_token()))
    assert response.json() == {"subject": "camera-7", "scopes": ["depth:predict"]}


async def test_no_forged_token_passes(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    async with guarded.client() as client:
        await client.get("/predict", headers=bearer(valid_token()))
        guarded.reached.clear()
        for name, token in forged_tokens().items():
            response = await client.post("/predict", headers=bearer(token))
            assert response.status_code == 401, name
            assert_refused(response, 401, "unauthenticated")
            assert 'error="invalid_' in response.headers["www-authenticate"], name
            assert token not in response.text
    assert guarded.reached == []
    assert issuer.asked <= 2, "tokens with unknown keys must not make the server ask for keys again and again"
    assert guarded.refusals["invalid"] == len(forged_tokens())


@pytest.mark.parametrize(
    "path",
    [
        "/predict",
        "/predict/",
        "/",
        "/docs",
        "/openapi.json",
        "/jobs/1",
        "/healthz/x",
        "//healthz",
        "/%68ealthz/",
        "/v2/models/m/infer",
        "/metrics/../predict",
    ],
)
async def test_without_credentials_nothing_is_reached(issuer: IssuerServer, path: str) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    async with guarded.client() as client:
        response = await client.get(path)
    assert_refused(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"] == 'Bearer realm="depth-server"'
    assert guarded.reached == []
    assert guarded.refusals == {"missing": 1}


@pytest.mark.parametrize("path", sorted(PUBLIC_PATHS))
async def test_health_and_metrics_need_no_credentials(issuer: IssuerServer, path: str) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    async with guarded.client() as client:
        assert (await client.get(path)).status_code == 200
        assert (await client.get(path, headers=bearer("nonsense"))).status_code == 200
    assert issuer.asked == 0


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Basic dXNlcjpwYXNz")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "")],
        [("Authorization", "Bearer a b")],
        [("Authorization", "bearer:x")],
        [("Authorization", "Bearer x"), ("Authorization", "Bearer y")],
        [("Cookie", "token=x")],
        [("X-API-Key", KEY)],
        [("X-Forwarded-User", "administrator")],
    ],
)
async def test_credentials_in_another_form_are_refused(issuer: IssuerServer, headers: list[tuple[str, str]]) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    async with guarded.client() as client:
        assert_refused(await client.get("/predict", headers=headers), 401, "unauthenticated")
    assert guarded.reached == []


async def test_two_tokens_are_refused_even_if_one_is_valid(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    async with guarded.client() as client:
        both = [("Authorization", f"Bearer {valid_token()}"), ("Authorization", "Bearer x")]
        assert_refused(await client.get("/predict", headers=both), 401, "unauthenticated")


async def test_a_token_in_the_query_does_not_count(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    async with guarded.client() as client:
        response = await client.get("/predict", params={"access_token": valid_token()})
    assert_refused(response, 401, "unauthenticated")


async def test_the_scheme_may_be_written_in_any_case(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    async with guarded.client() as client:
        response = await client.get("/predict", headers={"Authorization": f"bEARER {valid_token()}"})
    assert response.status_code == 200


async def test_a_missing_scope_is_forbidden_and_named(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer, auth_required_scopes="depth:predict depth:jobs"))
    async with guarded.client() as client:
        refused = await client.get("/predict", headers=bearer(valid_token()))
        passed = await client.get("/predict", headers=bearer(valid_token(scope="depth:jobs depth:predict more")))
    assert_refused(refused, 403, "forbidden")
    assert 'error="insufficient_scope", scope="depth:jobs depth:predict"' in refused.headers["www-authenticate"]
    assert passed.status_code == 200
    assert guarded.refusals == {"scope": 1}


async def test_a_rotated_key_is_found_and_a_removed_one_is_forgotten(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer, jwks_refetch_seconds=0.000001, jwks_max_age_seconds=0.000001))
    new_key = rsa_key("rotated")
    new_token = token_forge.token(token_forge.header(kid="rotated"), token_forge.claims(), token_forge.rs256(new_key))
    async with guarded.client() as client:
        assert (await client.get("/predict", headers=bearer(new_token))).status_code == 401
        issuer.content = jwks(rsa_jwk(), rsa_jwk("rotated", new_key))
        assert (await client.get("/predict", headers=bearer(new_token))).status_code == 200
        assert (await client.get("/predict", headers=bearer(valid_token()))).status_code == 200
        issuer.content = jwks(rsa_jwk("rotated", new_key))
        assert (await client.get("/predict", headers=bearer(valid_token()))).status_code == 401


async def test_a_flood_of_kids_does_not_reach_the_issuer(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    sign = token_forge.rs256(rsa_key("attacker"))
    async with guarded.client() as client:
        for index in range(100):
            forged = token_forge.token(token_forge.header(kid=f"kid-{index}"), token_forge.claims(), sign)
            assert (await client.get("/predict", headers=bearer(forged))).status_code == 401
        assert (await client.get("/predict", headers=bearer(valid_token()))).status_code == 200
    assert issuer.asked <= 2


async def test_an_issuer_that_is_down_from_the_start_makes_the_server_unavailable_not_open(
    issuer: IssuerServer, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.status = 500
    guarded = Guarded(**jwt_settings(issuer))
    async with guarded.client() as client:
        with caplog.at_level(logging.WARNING):
            response = await client.get("/predict", headers=bearer(valid_token()))
    assert response.status_code == 503
    assert response.json()["type"] == "urn:depthserving:problem:credentials-unavailable"
    assert int(response.headers["retry-after"]) >= 1
    assert "answers 500" in caplog.text
    assert guarded.reached == []


async def test_the_last_keys_hold_while_the_issuer_is_down(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer, jwks_refetch_seconds=0.000001, jwks_max_age_seconds=0.000001))
    async with guarded.client() as client:
        assert (await client.get("/predict", headers=bearer(valid_token()))).status_code == 200
        issuer.status = 503
        assert (await client.get("/predict", headers=bearer(valid_token()))).status_code == 200
        forged = forged_tokens()["rsa-attacker"]
        assert (await client.get("/predict", headers=bearer(forged))).status_code == 401


async def test_tokens_are_never_logged(issuer: IssuerServer, caplog: pytest.LogCaptureFixture) -> None:
    guarded = Guarded(**jwt_settings(issuer))
    good = valid_token()
    async with guarded.client() as client:
        with caplog.at_level(logging.DEBUG):
            await client.get("/predict", headers=bearer(good))
            await client.get("/predict", headers=bearer(forged_tokens()["expired"]))
    for token in (good, forged_tokens()["expired"]):
        assert token.rsplit(".", 1)[1] not in caplog.text


def key_file(folder: Path) -> Path:
    path = folder / "keys"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    path.write_text(f"camera-7 sha256:{digest} depth:predict\n")
    return path


@pytest.mark.parametrize("headers", [{"X-API-Key": KEY}, bearer(KEY)])
async def test_an_api_key_passes(tmp_path: Path, headers: dict[str, str]) -> None:
    guarded = Guarded(auth="api-key", api_keys_file=key_file(tmp_path))
    async with guarded.client() as client:
        response = await client.get("/predict", headers=headers)
    assert response.json() == {"subject": "camera-7", "scopes": ["depth:predict"]}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": KEY + "x"},
        {"X-API-Key": "x" * 10_000},
        {"Authorization": f"Basic {KEY}"},
        {"X-API-Key": KEY, "Authorization": f"Bearer {KEY}"},
    ],
)
async def test_anything_but_one_known_api_key_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    guarded = Guarded(auth="api-key", api_keys_file=key_file(tmp_path))
    async with guarded.client() as client:
        assert_refused(await client.get("/predict", headers=headers), 401, "unauthenticated")
    assert guarded.reached == []


async def test_a_removed_api_key_stops_working(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    guarded = Guarded(auth="api-key", api_keys_file=path, credentials_reload_seconds=0.000001)
    async with guarded.client() as client:
        assert (await client.get("/predict", headers={"X-API-Key": KEY})).status_code == 200
        path.write_text(f"other sha256:{'0' * 64}\n")
        assert (await client.get("/predict", headers={"X-API-Key": KEY})).status_code == 401


async def test_without_authentication_everybody_passes() -> None:
    guarded = Guarded()
    async with guarded.client() as client:
        response = await client.get("/predict")
    assert response.json() == {"subject": None, "scopes": []}
    assert response.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("content", ["", "nonsense", None])
def test_a_file_of_keys_that_cannot_be_used_stops_the_server(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    for settings in (
        {"auth": "api-key", "api_keys_file": path},
        {"auth": "jwt", "jwt_issuer": "i", "jwt_audience": "a", "jwt_key_file": path},
    ):
        with pytest.raises(StartupError) as raised:
            Guarded(**settings)
        assert raised.value.reason is StartupReason.INVALID_SETTINGS
        assert str(path) in str(raised.value)


async def test_a_public_key_in_a_file_verifies_tokens(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(token_forge.public_pem(rsa_key()))
    guarded = Guarded(auth="jwt", jwt_issuer=token_forge.ISSUER, jwt_audience=token_forge.AUDIENCE, jwt_key_file=path)
    async with guarded.client() as client:
        assert (await client.get("/predict", headers=bearer(valid_token()))).status_code == 200
        # The issuer's key did sign this one, and a key without a name answers to every `kid`.
        signed = {"rs256-of-an-ec-key"}
        for name in forged_tokens().keys() - signed:
            token = forged_tokens()[name]
            assert (await client.get("/predict", headers=bearer(token))).status_code == 401, name


async def test_a_websocket_needs_credentials_too(issuer: IssuerServer) -> None:
    guarded = Guarded(**jwt_settings(issuer))

    @guarded.app.websocket("/stream")
    async def stream(_: WebSocket) -> None:
        guarded.reached.append("stream")

    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/stream", "headers": [], "query_string": b"", "scheme": "ws"}
    await guarded.app(scope, receive, send)
    assert sent[0]["type"] == "websocket.http.response.start"
    assert sent[0]["status"] == 401
    assert guarded.reached == []


def test_the_largest_token_is_smaller_than_the_largest_head() -> None:
    from depth_server.serving import MAX_HEAD_BYTES  # noqa: PLC0415 heavy

    assert MAX_TOKEN_BYTES < MAX_HEAD_BYTES
