"""Key sets: what is read of them, how often they are asked for, and what holds while nobody answers."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from depth_server.access_settings import check_jwks_url
from depth_server.errors import CredentialsUnavailableError
from depth_server.jwks import MAX_JWKS_BYTES, RemoteKeys, jwks_fetcher, parse_jwks, parse_keys
from tests.unit.depth_server.token_forge import ec_jwk, jwks, public_pem, rsa_jwk, rsa_key


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Publishes key sets, or fails, and counts how often it is asked."""

    def __init__(self, *kids: str) -> None:
        self.content = jwks(*(rsa_jwk(kid) for kid in kids))
        self.failure: Exception | None = None
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self) -> bytes:
        self.asked += 1
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return self.content


def remote(issuer: Issuer, clock: Clock) -> RemoteKeys:
    return RemoteKeys(issuer, max_age_seconds=300, refetch_seconds=10, max_stale_seconds=3600, clock=clock)


async def kids(keys: RemoteKeys) -> set[str | None]:
    return {key.key_id for key in await keys.keys()}


async def test_keys_are_asked_for_once_per_age() -> None:
    issuer, clock = Issuer("a"), Clock()
    keys = remote(issuer, clock)
    for _ in range(50):
        assert await kids(keys) == {"a"}
    assert issuer.asked == 1
    clock.now += 301
    issuer.content = jwks(rsa_jwk("b"))
    assert await kids(keys) == {"b"}
    assert issuer.asked == 2


async def test_a_flood_of_unknown_kids_asks_once_per_interval() -> None:
    issuer, clock = Issuer("a"), Clock()
    keys = remote(issuer, clock)
    known = await keys.keys()
    clock.now += 60
    for _ in range(500):
        await keys.newer_keys(await keys.keys())
    assert issuer.asked == 2
    clock.now += 10
    await asyncio.gather(*(keys.newer_keys(known) for _ in range(500)))
    assert issuer.asked == 2, "keys newer than those that lacked the kid are there already"
    newest = await keys.keys()
    await asyncio.gather(*(keys.newer_keys(newest) for _ in range(500)))
    assert issuer.asked == 3


async def test_a_new_key_of_the_issuer_is_found_before_the_age_is_over() -> None:
    issuer, clock = Issuer("a"), Clock()
    keys = remote(issuer, clock)
    known = await keys.keys()
    clock.now += 60
    issuer.content = jwks(rsa_jwk("a"), rsa_jwk("b", rsa_key("b")))
    assert {key.key_id for key in await keys.newer_keys(known)} == {"a", "b"}


@pytest.mark.parametrize("failure", [OSError("refused"), TimeoutError("slow"), ValueError("answers 500")])
async def test_the_last_keys_hold_while_nobody_answers_but_not_for_ever(failure: Exception) -> None:
    issuer, clock = Issuer("a"), Clock()
    keys = remote(issuer, clock)
    await keys.keys()
    issuer.failure = failure
    clock.now += 301
    for _ in range(100):
        assert await kids(keys) == {"a"}
    assert issuer.asked == 2, "an issuer that is down is not asked for every token"
    clock.now += 3600
    with pytest.raises(CredentialsUnavailableError):
        await keys.keys()
    issuer.failure = None
    clock.now += 10
    assert await kids(keys) == {"a"}


async def test_without_any_keys_tokens_cannot_be_verified_and_the_issuer_is_not_pressed() -> None:
    issuer, clock = Issuer("a"), Clock()
    issuer.failure = OSError("refused")
    keys = remote(issuer, clock)
    for _ in range(20):
        with pytest.raises(CredentialsUnavailableError) as raised:
            await keys.keys()
        assert raised.value.retry_after_seconds == 10
    assert issuer.asked == 1


async def test_a_damaged_answer_does_not_replace_the_last_keys() -> None:
    issuer, clock = Issuer("a"), Clock()
    keys = remote(issuer, clock)
    await keys.keys()
    clock.now += 301
    issuer.content = b'{"keys": []}'
    assert await kids(keys) == {"a"}


async def test_one_request_serves_all_that_wait_also_if_the_first_of_them_leaves() -> None:
    issuer, clock = Issuer("a"), Clock()
    issuer.open.clear()
    keys = remote(issuer, clock)
    waiting = [asyncio.create_task(kids(keys)) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    issuer.open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [{"a"}] * 19
    assert issuer.asked == 1


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/jwks.json", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
    finally:
        await runner.cleanup()


async def test_a_key_set_is_fetched() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=jwks())

    async with answering(handler) as url:
        assert await jwks_fetcher(url, 5)() == jwks()


@pytest.mark.parametrize("status", [301, 302, 307, 404, 500])
async def test_only_an_answer_with_keys_counts(status: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, body=jwks(), headers={"Location": "http://127.0.0.1:1/elsewhere"})

    async with answering(handler) as url:
        with pytest.raises(ValueError, match=f"answers {status}"):
            await jwks_fetcher(url, 5)()


async def test_an_answer_without_end_is_cut() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2 * MAX_JWKS_BYTES // 65536):
            await response.write(b" " * 65536)
        return response

    async with answering(handler) as url:
        with pytest.raises(ValueError, match="more than"):
            await jwks_fetcher(url, 5)()


async def test_an_answer_that_drips_is_given_up() -> None:
    gone = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not gone.is_set():
            try:
                await response.write(b" ")
                await asyncio.wait_for(gone.wait(), 0.02)
            except (TimeoutError, ConnectionError):
                if request.transport is None or request.transport.is_closing():
                    break
        return response

    async with answering(handler) as url:
        with pytest.raises(TimeoutError):
            await jwks_fetcher(url, 0.2)()
        gone.set()


async def test_an_issuer_that_is_down_is_an_ordinary_error() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response()

    async with answering(handler) as url:
        pass
    with pytest.raises(OSError, match="refused"):
        await jwks_fetcher(url, 1)()


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks.json",
        "http://127.0.0.1.attacker.example/jwks.json",
        "http://10.0.0.1/jwks.json",
        "file:///etc/keys.json",
        "ftp://issuer.example/jwks.json",
        "https://user:secret@issuer.example/jwks.json",
        "https:///jwks.json",
        "issuer.example/jwks.json",
    ],
)
def test_keys_are_fetched_over_https_only(url: str) -> None:
    with pytest.raises(ValueError, match="DEPTH_SERVER_JWT_JWKS_URL"):
        check_jwks_url(url, allow_loopback_http=True)


def test_loopback_needs_no_https_where_that_is_allowed() -> None:
    check_jwks_url("https://issuer.example/jwks.json", allow_loopback_http=False)
    check_jwks_url("http://127.0.0.1:8080/jwks.json", allow_loopback_http=True)
    with pytest.raises(ValueError, match="https only"):
        check_jwks_url("http://127.0.0.1:8080/jwks.json", allow_loopback_http=False)


def _weak() -> dict[str, Any]:
    return rsa_jwk("weak", rsa.generate_private_key(65537, 1024))  # noqa: S505 that is the point


UNUSABLE: dict[str, Any] = {
    "secret": {"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"},
    "secret-called-rs256": {"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "RS256"},
    "for-encryption": {**rsa_jwk("e"), "use": "enc"},
    "for-signing-only": {**rsa_jwk("e"), "key_ops": ["sign"]},
    "private": {**rsa_jwk("p"), "d": "AQAB"},
    "hmac-algorithm": {**rsa_jwk("h"), "alg": "HS256"},
    "no-algorithm": {**rsa_jwk("n"), "alg": "none"},
    "algorithm-of-another-type": {**ec_jwk("x"), "alg": "RS256"},
    "algorithm-of-another-curve": {**ec_jwk("x"), "alg": "ES512"},
    "list-as-algorithm": {**rsa_jwk("x"), "alg": ["RS256"]},
    "not-on-the-curve": {**ec_jwk("x"), "x": "AQAB"},
    "unknown-curve": {**ec_jwk("x"), "crv": "secp256k1"},
    "unknown-type": {"kty": "PQ", "kid": "x"},
    "kid-number": {**rsa_jwk("x"), "kid": 5},
    "kid-long": rsa_jwk("k" * 300),
    "modulus-missing": {"kty": "RSA", "kid": "x", "e": "AQAB"},
    "modulus-number": {**rsa_jwk("x"), "n": 7},
    "no-object": "rsa",
    "list-as-type": {"kty": ["RSA"]},
    "key-ops-number": {**rsa_jwk("x"), "key_ops": 1},
}


@pytest.mark.parametrize("name", sorted(UNUSABLE))
def test_a_key_that_must_not_be_used_is_left_out_and_the_others_stay(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        keys = parse_jwks(json.dumps({"keys": [UNUSABLE[name], rsa_jwk()]}).encode())
    assert [key.key_id for key in keys] == ["rsa-1"]
    assert "key 0 of the key set is left out" in caplog.text


def test_a_weak_key_is_left_out() -> None:
    assert [key.key_id for key in parse_jwks(jwks(_weak(), rsa_jwk()))] == ["rsa-1"]


def test_of_two_keys_with_one_name_the_first_counts() -> None:
    keys = parse_jwks(jwks(rsa_jwk("a"), rsa_jwk("a", rsa_key("attacker"))))
    assert len(keys) == 1
    assert keys[0].key.public_numbers() == rsa_key().public_key().public_numbers()  # type: ignore[union-attr]  # RSA


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [1, null, "x"]}',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"keys": [rsa_jwk(str(index)) for index in range(101)]}).encode(),
    ],
)
def test_what_is_no_key_set_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 several parsers speak
        parse_jwks(content)


def pem(key: Any) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    content: bytes = key.public_key().public_bytes(encoding, form)
    return content


def test_a_file_may_be_a_public_key() -> None:
    assert "RS256" in parse_keys(public_pem(rsa_key()))[0].algorithms
    assert parse_keys(pem(ec.generate_private_key(ec.SECP384R1())))[0].algorithms == {"ES384"}
    assert parse_keys(pem(ed25519.Ed25519PrivateKey.generate()))[0].algorithms == {"EdDSA"}


def test_a_file_must_not_be_a_private_or_a_weak_key() -> None:
    private = rsa_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (private, pem(rsa.generate_private_key(65537, 1024)), pem(ec.generate_private_key(ec.SECP192R1()))):  # noqa: S505 that is the point
        with pytest.raises(ValueError):  # noqa: PT011 several parsers speak
            parse_keys(content)
