"""Verifies JSON Web Tokens by the rules of RFC 8725; pure but for PyJWT's clock.

The token decides nothing about its own verification: algorithms come from the settings and from the key, keys come
from the server's own set, and what a header says about keys (`jku`, `jwk`, `x5u`, `x5c`) is not read.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt.algorithms import AllowedPublicKeys

MAX_TOKEN_BYTES: Final = 8 * 1024
"""Bytes of a token."""

MAX_KEY_ID_LENGTH: Final = 256
"""Characters of `kid`."""

TOKEN_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""Three parts of base64url without padding (RFC 7515 section 3.1): decoders skip what does not belong there."""

TOKEN_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt", "application/jwt"})
"""Values of `typ` of access tokens (RFC 7519 section 5.1, RFC 9068 section 2.1), in lower case; others are tokens for
another purpose."""

REQUIRED_CLAIMS: Final = ("exp", "iat", "iss", "aud", "sub")
"""Claims that a token must have."""

TIME_CLAIMS: Final = ("exp", "iat", "nbf")
"""Claims that are numbers of seconds since 1970."""


class TokenError(Exception):
    """The token is not valid; the message may be shown to whoever sent it."""


class UnknownKeyError(TokenError):
    """No key of the set can verify the token; a newer set might."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key.

    Attributes:
        key_id: Its `kid`; None where it has none.
        algorithms: What it may verify, by its type and by what its publisher says.
        key: The key.
    """

    key_id: str | None
    algorithms: frozenset[str]
    key: AllowedPublicKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPolicy:
    """What a valid token looks like.

    Attributes:
        issuer: Its `iss`.
        audience: What its `aud` is or contains.
        algorithms: What it may be signed with.
        leeway_seconds: How far clocks may differ.
    """

    issuer: str
    audience: str
    algorithms: frozenset[str]
    leeway_seconds: float


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """What is read of a token before its signature is verified.

    Attributes:
        key_id: Its `kid`: a name to look up, nothing more.
        algorithm: Its `alg`; refused unless the policy and the key allow it.
    """

    key_id: str | None
    algorithm: str


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a valid token says.

    Attributes:
        subject: `sub`.
        scopes: `scope` (RFC 8693) or `scp`.
    """

    subject: str
    scopes: frozenset[str]


def read_header(token: str, policy: TokenPolicy) -> TokenHeader:
    """Check a token's form, before any work is spent on it.

    Raises:
        TokenError: Too long, not three parts of JSON, or a header that must not be accepted.
    """
    if len(token) > MAX_TOKEN_BYTES:
        message = f"the token has more than {MAX_TOKEN_BYTES} bytes"
        raise TokenError(message)
    if TOKEN_FORM.fullmatch(token) is None:
        message = "the token is not three parts of base64url separated by dots"
        raise TokenError(message)
    first, second, _ = token.split(".")
    header, _ = _read_object(first, "header"), _read_object(second, "payload")
    algorithm, key_id, token_type = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str) or algorithm not in policy.algorithms:
        message = "the token is signed with an algorithm that is not accepted"
        raise TokenError(message)
    if not isinstance(token_type, str) or token_type.lower() not in TOKEN_TYPES:
        message = "the token is of another type"
        raise TokenError(message)
    if header.keys() & {"crit", "b64", "zip", "enc"}:
        # None of these extensions is implemented, and RFC 7515 section 4.1.11 asks to refuse what is not.
        message = "the token's header needs something that is not supported"
        raise TokenError(message)
    if key_id is not None and not (isinstance(key_id, str) and 0 < len(key_id) <= MAX_KEY_ID_LENGTH):
        message = "the token's kid is not a short text"
        raise TokenError(message)
    return TokenHeader(key_id, algorithm)


def select_key(keys: Sequence[VerificationKey], header: TokenHeader) -> VerificationKey:
    """Choose the key that a token claims to be signed with.

    A key without an identifier answers to every `kid`, and a token without one to every key, as long as only one fits.

    Raises:
        UnknownKeyError: None fits, or several do.
    """
    fitting = [key for key in keys if header.algorithm in key.algorithms]
    if header.key_id is not None:
        named = [key for key in fitting if key.key_id == header.key_id]
        fitting = named or [key for key in fitting if key.key_id is None]
    if len(fitting) != 1:
        message = "no key is known that the token is signed with" if not fitting else "the token names no key"
        raise UnknownKeyError(message)
    return fitting[0]


def verify_token(token: str, key: VerificationKey, policy: TokenPolicy) -> TokenClaims:
    """Verify a token whose header was read.

    Raises:
        TokenError: The signature or a claim is wrong.
    """
    try:
        claims = jwt.decode(
            token,
            key.key,
            algorithms=sorted(key.algorithms & policy.algorithms),
            audience=policy.audience,
            issuer=policy.issuer,
            leeway=policy.leeway_seconds,
            options={"require": list(REQUIRED_CLAIMS), "enforce_minimum_key_length": True},
        )
    except jwt.ExpiredSignatureError as error:
        message = "the token has expired"
        raise TokenError(message) from error
    except jwt.ImmatureSignatureError as error:
        message = "the token is not valid yet"
        raise TokenError(message) from error
    except jwt.InvalidAudienceError as error:
        message = "the token is for another audience"
        raise TokenError(message) from error
    except jwt.InvalidIssuerError as error:
        message = "the token is of another issuer"
        raise TokenError(message) from error
    except jwt.MissingRequiredClaimError as error:
        message = f"the token has no claim {error.claim}"
        raise TokenError(message) from error
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        message = "the token's signature or a claim is not valid"
        raise TokenError(message) from error
    return read_claims(claims)


def read_claims(claims: dict[str, Any]) -> TokenClaims:
    """Read the claims of a token whose signature was verified.

    Raises:
        TokenError: A claim has a wrong type.
    """
    for name in TIME_CLAIMS:
        # PyJWT takes texts and booleans for numbers.
        value = claims.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            message = f"the token's claim {name} is not a number"
            raise TokenError(message)
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_KEY_ID_LENGTH:
        message = "the token's claim sub is not a short text"
        raise TokenError(message)
    scopes = claims.get("scope", claims.get("scp", ""))
    if isinstance(scopes, str):
        scopes = scopes.split()
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        message = "the token's scopes are neither a text nor a list of texts"
        raise TokenError(message)
    return TokenClaims(subject, frozenset(scopes))


def _read_object(part: str, name: str) -> dict[str, Any]:
    """Decode base64url JSON, refusing what parsers disagree about.

    Two readers of a duplicate name may see two values, so the one that verifies and the one that uses could differ.
    """
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        decoded = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (binascii.Error, ValueError, RecursionError) as error:
        message = f"the token's {name} is not base64url of JSON with distinct names"
        raise TokenError(message) from error
    if not isinstance(decoded, dict):
        message = f"the token's {name} is not a JSON object"
        raise TokenError(message)
    return decoded


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        message = "a name is there twice"
        raise ValueError(message)
    return unique


def _refuse_constant(name: str) -> float:
    message = f"{name} is no JSON"
    raise ValueError(message)
