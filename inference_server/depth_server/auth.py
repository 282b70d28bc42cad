"""Who may use the server: credentials are checked before anything of a request's body is read.

The check is in front of the whole application, so that a new endpoint is protected until somebody says otherwise.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NoReturn

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from depth_server.api_keys import ApiKey, find_api_key
from depth_server.errors import (
    AccessError,
    CredentialsUnavailableError,
    ForbiddenError,
    UnauthenticatedError,
)
from depth_server.jwks import KeySource
from depth_server.jwt_tokens import TokenError, TokenPolicy, UnknownKeyError, read_header, select_key, verify_token
from depth_server.problems import problem_response

PUBLIC_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
"""Asked by the kubelet and by Prometheus, which have no credentials."""

API_KEY_HEADER: Final = "X-API-Key"
"""Where an API key may be, beside `Authorization: Bearer`."""

REALM: Final = 'Bearer realm="depth-server"'
"""What a client is challenged with (RFC 6750 section 3)."""

PRINCIPAL: Final = "principal"
"""Name of the `Principal` in the request's state."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sent a request.

    Attributes:
        subject: Name within the issuer, or of the API key.
        scopes: What it may do.
    """

    subject: str
    scopes: frozenset[str]


class RefusalReason(StrEnum):
    """Values of the label `reason` of `depth_server_access_refused_total`."""

    MISSING = "missing"
    INVALID = "invalid"
    SCOPE = "scope"
    UNAVAILABLE = "unavailable"


Authenticator = Callable[[Headers], Awaitable[Principal]]
"""Tells who sent a request with these headers, or raises AccessError or CredentialsUnavailableError."""


class JwtAuthenticator:
    """Accepts `Authorization: Bearer` with a JSON Web Token.

    Args:
        keys: Where public keys come from.
        policy: What a valid token looks like.
    """

    def __init__(self, keys: KeySource, policy: TokenPolicy) -> None:
        self._keys = keys
        self._policy = policy

    async def __call__(self, headers: Headers) -> Principal:
        """Verify a request's token.

        Raises:
            UnauthenticatedError: None, or it is not valid.
            CredentialsUnavailableError: There are no keys to verify it with.
        """
        token = bearer_token(headers)
        if token is None:
            refuse_missing()
        try:
            header = read_header(token, self._policy)
            known = await self._keys.keys()
            try:
                key = select_key(known, header)
            except UnknownKeyError:
                # The issuer may have changed its keys since.
                key = select_key(await self._keys.newer_keys(known), header)
            claims = verify_token(token, key, self._policy)
        except TokenError as error:
            raise UnauthenticatedError(str(error), challenge=invalid_challenge(str(error))) from error
        return Principal(claims.subject, claims.scopes)


class ApiKeyAuthenticator:
    """Accepts API keys, in `X-API-Key` or as `Authorization: Bearer`.

    Args:
        keys: Gives the current ones.
    """

    def __init__(self, keys: Callable[[], Awaitable[tuple[ApiKey, ...]]]) -> None:
        self._keys = keys

    async def __call__(self, headers: Headers) -> Principal:
        """Find a request's key.

        Raises:
            UnauthenticatedError: None, or it is unknown.
        """
        given = headers.getlist(API_KEY_HEADER)
        token = bearer_token(headers)
        presented = [*given, token] if token is not None else given
        if not presented:
            refuse_missing()
        key = find_api_key(await self._keys(), presented[0]) if len(presented) == 1 else None
        if key is None:
            message = "the API key is unknown" if len(presented) == 1 else "there is more than one API key"
            raise UnauthenticatedError(message, challenge=invalid_challenge(message))
        return Principal(key.name, key.scopes)


class AuthenticationMiddleware:
    """Lets only known clients pass; who it is stands in the request's state as `principal`.

    Args:
        app: What answers.
        authenticator: Tells who sent a request.
        required_scopes: What everybody must have.
        on_refusal: Told the reason of every refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        required_scopes: frozenset[str],
        on_refusal: Callable[[str], None],
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._required_scopes = required_scopes
        self._on_refusal = on_refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or scope.get("path") in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._authenticator(Headers(scope=scope))
            check_scopes(principal, self._required_scopes)
        except (AccessError, CredentialsUnavailableError) as error:
            self._on_refusal(refusal_reason(error))
            await problem_response(error, path=scope["path"])(scope, receive, send)
            return
        scope.setdefault("state", {})[PRINCIPAL] = principal
        await self._app(scope, receive, send)


def bearer_token(headers: Headers) -> str | None:
    """Find the token of the header `Authorization` (RFC 6750 section 2.1); never in the query, which is logged.

    Raises:
        UnauthenticatedError: Several headers, or another scheme.
    """
    values = headers.getlist("authorization")
    if not values:
        return None
    scheme, _, token = values[0].strip().partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        message = "expected one header `Authorization: Bearer ...`"
        raise UnauthenticatedError(message, challenge=f'{REALM}, error="invalid_request"')
    return token.strip()


def check_scopes(principal: Principal, required: frozenset[str]) -> None:
    """Refuse who lacks a scope.

    Raises:
        ForbiddenError: With the scopes that are needed.
    """
    if not required <= principal.scopes:
        needed = " ".join(sorted(required))
        message = f"the credentials lack a scope; needed: {needed}"
        raise ForbiddenError(message, challenge=f'{REALM}, error="insufficient_scope", scope="{needed}"')


def refusal_reason(error: AccessError | CredentialsUnavailableError) -> RefusalReason:
    """Classify a refusal for the metrics."""
    if isinstance(error, CredentialsUnavailableError):
        return RefusalReason.UNAVAILABLE
    if isinstance(error, ForbiddenError):
        return RefusalReason.SCOPE
    return RefusalReason.MISSING if error.challenge == REALM else RefusalReason.INVALID


def refuse_missing() -> NoReturn:
    """Ask for credentials; without an error code where there were none (RFC 6750 section 3.1).

    Raises:
        UnauthenticatedError: Always.
    """
    message = "the request has no credentials"
    raise UnauthenticatedError(message, challenge=REALM)


def invalid_challenge(description: str) -> str:
    """Tell what is wrong with a token; the description is ours and has no quotes."""
    return f'{REALM}, error="invalid_token", error_description="{description}"'
