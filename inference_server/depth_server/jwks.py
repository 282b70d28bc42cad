"""Public keys that tokens are verified with: from a file, or from the issuer's URL (RFC 7517).

What the URL answers is not trusted further than its TLS: size, time, number and kind of keys are bounded.
"""

import asyncio
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from http.client import HTTPException
from typing import Any, Final, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from depth_server.errors import CredentialsUnavailableError
from depth_server.jwt_tokens import MAX_KEY_ID_LENGTH, VerificationKey
from depth_server.reloading_file import ReloadingFile

logger = logging.getLogger(__name__)

MAX_JWKS_BYTES: Final = 256 * 1024
"""Bytes of a key set."""

MAX_KEYS: Final = 100
"""Keys of a key set."""

RSA_BITS: Final = range(2048, 8192 + 1)
"""Sizes of RSA keys: below they are weak (RFC 7518 section 3.3), above a verification is expensive."""

RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
"""What an RSA key can verify."""

CURVE_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
"""What an elliptic key can verify, by its curve."""

PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})
"""Members of a key that nobody may publish (RFC 7518 section 6)."""

PublicKeys = tuple[VerificationKey, ...]
"""A key set."""

PEM_MARKER: Final = b"-----BEGIN "
"""How a PEM file begins, after white space."""


class KeySource(Protocol):
    """Where keys come from."""

    async def keys(self) -> PublicKeys:
        """Return the current keys, or raise CredentialsUnavailableError."""
        ...

    async def newer_keys(self, known: PublicKeys) -> PublicKeys:
        """Return keys that may be newer than `known`, which lack one; never more often than is good for the source."""
        ...


def parse_keys(content: bytes) -> PublicKeys:
    """Read public keys, as one PEM or as a key set.

    Raises:
        ValueError: Not a key that can be used, or none in the set.
    """
    if not content.lstrip().startswith(PEM_MARKER):
        return parse_jwks(content)
    try:
        key = load_pem_public_key(content)
    except UnsupportedAlgorithm as error:
        message = f"its key cannot be used: {error}"
        raise ValueError(message) from error
    return (_verification_key(key, None),)


def parse_jwks(content: bytes) -> PublicKeys:
    """Read a key set, leaving out what is not for verifying signatures.

    Raises:
        ValueError: Not a key set, or none of its keys can be used.
    """
    try:
        document = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        message = "it is nested too deeply"
        raise ValueError(message) from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        message = f"it is no JSON Web Key Set of at most {MAX_KEYS} keys"
        raise ValueError(message)
    keys: list[VerificationKey] = []
    for number, entry in enumerate(entries):
        try:
            key = _parse_jwk(entry)
        except ValueError as error:
            logger.warning("key %d of the key set is left out: %s", number, error)
            continue
        if any(key.key_id == other.key_id and key.algorithms & other.algorithms for other in keys):
            logger.warning("key %d of the key set is left out: an earlier one has its kid and algorithm", number)
            continue
        keys.append(key)
    if not keys:
        message = "none of its keys can verify a signature"
        raise ValueError(message)
    return tuple(keys)


class FileKeys:
    """Keys of a file.

    Args:
        file: The file.
    """

    def __init__(self, file: ReloadingFile[PublicKeys]) -> None:
        self._file = file

    async def keys(self) -> PublicKeys:
        """Return the file's keys."""
        return await self._file.current()

    async def newer_keys(self, known: PublicKeys) -> PublicKeys:
        """Return what is known: the file is looked at often enough by itself."""
        return known


class RemoteKeys:
    """Keys of a URL, cached.

    However many tokens arrive and whatever they say, the URL is asked at most once per `refetch_seconds`, by one
    request at a time, and nothing is remembered about keys that do not exist. While it gives nothing the last keys
    stay in use, for `max_stale_seconds` beyond their age.

    Args:
        fetch: Asks the URL; raises OSError or ValueError.
        max_age_seconds: How long keys are used without asking.
        refetch_seconds: Least time between two requests.
        max_stale_seconds: See above.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        max_age_seconds: float,
        refetch_seconds: float,
        max_stale_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._fetch = fetch
        self._max_age = max_age_seconds
        self._refetch = refetch_seconds
        self._max_stale = max_stale_seconds
        self._clock = clock
        self._keys: PublicKeys | None = None
        self._fetched_at = 0.0
        self._asked_at: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def keys(self) -> PublicKeys:
        """Return the current keys.

        Raises:
            CredentialsUnavailableError: There are none, or the last ones are too old.
        """
        if self._keys is None or self._age() > self._max_age:
            await self._refresh()
        if self._keys is None or self._age() > self._max_age + self._max_stale:
            message = "the keys that tokens are verified with cannot be had at the moment"
            raise CredentialsUnavailableError(message, retry_after_seconds=max(1, round(self._refetch)))
        return self._keys

    async def newer_keys(self, known: PublicKeys) -> PublicKeys:
        """Ask the URL again unless that was done a moment ago, or another request already did."""
        if self._keys is known:
            await self._refresh()
        return self._keys or known

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    async def _refresh(self) -> None:
        if self._asking is None:
            if self._asked_at is not None and self._clock() - self._asked_at < self._refetch:
                return
            self._asked_at = self._clock()
            self._asking = asyncio.create_task(self._ask())
        # The one who asked first may leave; the others still wait.
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        try:
            self._keys = parse_jwks(await self._fetch())
            self._fetched_at = self._clock()
        except (OSError, ValueError) as error:
            state = "the last ones are used" if self._keys is not None else "there are none"
            logger.warning("the key set cannot be fetched, %s: %s", state, error)
        finally:
            self._asking = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """Follow nothing: where the issuer's keys are is a setting."""


def jwks_fetcher(url: str, timeout_seconds: float) -> Callable[[], Awaitable[bytes]]:
    """Make what asks a URL that `access_settings.check_jwks_url` accepted.

    It raises OSError if the URL cannot be asked in time, and ValueError if it answers anything but a document of a
    sensible size.
    """
    opener = urllib.request.build_opener(_NoRedirects)

    def fetch() -> bytes:
        deadline = time.monotonic() + timeout_seconds
        request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 the scheme was checked
        try:
            with opener.open(request, timeout=timeout_seconds) as response:
                content = bytearray()
                # The time limit of a socket is for each read; a server that drips must not hold a thread.
                while chunk := response.read1(16 * 1024):
                    content += chunk
                    if len(content) > MAX_JWKS_BYTES:
                        message = f"{url} answers more than {MAX_JWKS_BYTES} bytes"
                        raise ValueError(message)
                    if time.monotonic() > deadline:
                        message = f"{url} did not answer within {timeout_seconds:g} s"
                        raise TimeoutError(message)
                return bytes(content)
        except urllib.error.HTTPError as error:
            error.close()
            message = f"{url} answers {error.code}"
            raise ValueError(message) from error
        except HTTPException as error:
            message = f"{url} does not speak HTTP: {type(error).__name__}"
            raise ValueError(message) from error

    async def fetch_in_thread() -> bytes:
        async with asyncio.timeout(2 * timeout_seconds):
            return await asyncio.to_thread(fetch)

    return fetch_in_thread


def _parse_jwk(entry: object) -> VerificationKey:
    if not isinstance(entry, Mapping) or entry.get("kty") not in ("RSA", "EC", "OKP"):
        message = "it is no public key"
        raise ValueError(message)
    if entry.keys() & PRIVATE_MEMBERS:
        message = "it contains its private half, which must be considered stolen"
        raise ValueError(message)
    operations = entry.get("key_ops", ["verify"])
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        message = "it is not for signatures"
        raise ValueError(message)
    key_id = entry.get("kid")
    if key_id is not None and not (isinstance(key_id, str) and 0 < len(key_id) <= MAX_KEY_ID_LENGTH):
        message = "its kid is not a short text"
        raise ValueError(message)
    try:
        # By its type alone: its `alg` may only narrow what that allows, which is checked below.
        key = jwt.PyJWK({name: value for name, value in entry.items() if name != "alg"}).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
        message = f"it cannot be read ({type(error).__name__})"
        raise ValueError(message) from error
    verification_key = _verification_key(key, key_id)
    algorithm = entry.get("alg")
    if algorithm is None:
        return verification_key
    if not isinstance(algorithm, str) or algorithm not in verification_key.algorithms:
        message = "its alg does not belong to its type"
        raise ValueError(message)
    return VerificationKey(key_id, frozenset({algorithm}), verification_key.key)


def _verification_key(key: Any, key_id: str | None) -> VerificationKey:  # noqa: ANN401 whatever a file holds
    if isinstance(key, RSAPublicKey):
        if key.key_size not in RSA_BITS:
            message = f"an RSA key of {key.key_size} bits is not accepted, only of {RSA_BITS[0]} to {RSA_BITS[-1]}"
            raise ValueError(message)
        return VerificationKey(key_id, RSA_ALGORITHMS, key)
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in CURVE_ALGORITHMS:
        return VerificationKey(key_id, frozenset({CURVE_ALGORITHMS[key.curve.name]}), key)
    if isinstance(key, Ed25519PublicKey):
        return VerificationKey(key_id, frozenset({"EdDSA"}), key)
    message = "it is no public key of RSA, of P-256, P-384 or P-521, or of Ed25519"
    raise ValueError(message)
