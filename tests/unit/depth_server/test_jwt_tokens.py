"""Which tokens are valid: the pure rules, against a corpus of forgeries."""

import dataclasses

import pytest

from depth_server.jwks import parse_jwks, parse_keys
from depth_server.jwt_tokens import (
    TokenClaims,
    TokenError,
    TokenPolicy,
    UnknownKeyError,
    read_header,
    select_key,
    verify_token,
)
from tests.unit.depth_server import token_forge
from tests.unit.depth_server.token_forge import AUDIENCE, ISSUER, claims, forged_tokens, header, rs256, valid_token

POLICY = TokenPolicy(issuer=ISSUER, audience=AUDIENCE, algorithms=frozenset({"RS256", "ES256"}), leeway_seconds=30)


def verified(token: str, keys: bytes | None = None, policy: TokenPolicy = POLICY) -> TokenClaims:
    head = read_header(token, policy)
    return verify_token(token, select_key(parse_keys(keys or token_forge.jwks()), head), policy)


def test_the_corpus_is_large_and_every_token_of_it_is_different() -> None:
    assert len(forged_tokens()) >= 60
    assert len(set(forged_tokens().values())) == len(forged_tokens())


@pytest.mark.parametrize("name", sorted(forged_tokens()))
def test_a_forged_token_is_refused(name: str) -> None:
    with pytest.raises(TokenError):
        verified(forged_tokens()[name])


def test_valid_tokens_are_accepted() -> None:
    assert verified(valid_token()) == TokenClaims("camera-7", frozenset({"depth:predict"}))
    assert verified(token_forge.valid_ec_token()).subject == "camera-7"


@pytest.mark.parametrize(
    ("changes", "scopes"),
    [
        ({"aud": ["billing", AUDIENCE]}, {"depth:predict"}),
        ({"scope": "a b  c"}, {"a", "b", "c"}),
        ({"scope": ...}, set()),
        ({"scope": ..., "scp": ["a", "b"]}, {"a", "b"}),
        ({"nbf": 0}, {"depth:predict"}),
    ],
)
def test_what_issuers_do_differently_is_understood(changes: dict[str, object], scopes: set[str]) -> None:
    assert verified(valid_token(**changes)).scopes == scopes


def test_clocks_may_differ_by_the_leeway() -> None:
    now = claims()["iat"]
    assert verified(valid_token(exp=now - 10, iat=now + 10)).subject == "camera-7"
    with pytest.raises(TokenError, match="expired"):
        verified(valid_token(exp=now - 10), policy=dataclasses.replace(POLICY, leeway_seconds=0))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt", ...])
def test_types_of_access_tokens_are_accepted(kind: object) -> None:
    assert verified(token_forge.token(header(typ=kind), claims(), rs256())).subject == "camera-7"


def test_a_single_key_without_a_name_answers_to_every_name() -> None:
    assert verified(valid_token(), token_forge.public_pem(token_forge.rsa_key())).subject == "camera-7"


def test_a_token_without_a_name_needs_a_single_key_that_fits() -> None:
    nameless = token_forge.token(header(kid=...), claims(), rs256())
    assert verified(nameless).subject == "camera-7"  # the other key is elliptic
    two = token_forge.jwks(token_forge.rsa_jwk("a"), token_forge.rsa_jwk("b", token_forge.rsa_key("b")))
    with pytest.raises(UnknownKeyError, match="names no key"):
        verified(nameless, two)


def test_the_key_decides_which_algorithm_it_verifies() -> None:
    only_pss = parse_jwks(token_forge.jwks({**token_forge.rsa_jwk(), "alg": "PS256"}))
    with pytest.raises(UnknownKeyError):
        select_key(only_pss, read_header(valid_token(), POLICY))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exp": 1}, "the token has expired"),
        ({"nbf": 2**40}, "the token is not valid yet"),
        ({"aud": "billing"}, "the token is for another audience"),
        ({"iss": "https://attacker.example"}, "the token is of another issuer"),
        ({"sub": ...}, "the token has no claim sub"),
    ],
)
def test_the_holder_of_a_signed_token_learns_what_is_wrong_with_it(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        verified(valid_token(**changes))
