"""Keys of an imaginary issuer, tokens that are valid, and tokens that must never be."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER = "https://issuer.example/realms/depth"
AUDIENCE = "depth-server"
RSA_KID, EC_KID = "rsa-1", "ec-1"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

Sign = Callable[[bytes], bytes]
Json = dict[str, Any]


@cache
def rsa_key(name: str = RSA_KID) -> rsa.RSAPrivateKey:
    """One key per name, made once."""
    assert name
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(name: str = EC_KID) -> ec.EllipticCurvePrivateKey:
    """One key per name, made once."""
    assert name
    return ec.generate_private_key(ec.SECP256R1())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_der(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def rsa_jwk(kid: str | None = RSA_KID, key: rsa.RSAPrivateKey | None = None) -> Json:
    numbers = (key or rsa_key()).public_key().public_numbers()
    jwk = {"kty": "RSA", "use": "sig", "n": unsigned(numbers.n), "e": unsigned(numbers.e)}
    return jwk if kid is None else {**jwk, "kid": kid}


def ec_jwk(kid: str = EC_KID) -> Json:
    numbers = ec_key().public_key().public_numbers()
    x, y = (b64(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "x": x, "y": y}


def jwks(*keys: Json) -> bytes:
    return json.dumps({"keys": keys or (rsa_jwk(), ec_jwk())}).encode()


def rs256(key: rsa.RSAPrivateKey | None = None) -> Sign:
    return lambda data: (key or rsa_key()).sign(data, padding.PKCS1v15(), hashes.SHA256())


def es256(data: bytes) -> bytes:
    r, s = decode_dss_signature(ec_key().sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def hmac_with(secret: bytes, digest: Any = hashlib.sha256) -> Sign:
    return lambda data: hmac.new(secret, data, digest).digest()


def claims(**changes: Any) -> Json:
    """Valid claims with changes; a change to ... leaves a claim out."""
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "camera-7", "iat": now, "exp": now + 600, "scope": "depth:predict"}
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


def header(**changes: Any) -> Json:
    whole = {"alg": "RS256", "typ": "JWT", "kid": RSA_KID}
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


def token(head: Json | bytes, body: Json | bytes, sign: Sign) -> str:
    first, second = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, body))
    signed = f"{b64(first)}.{b64(second)}"
    return f"{signed}.{b64(sign(signed.encode()))}"


def valid_token(**changes: Any) -> str:
    return token(header(), claims(**changes), rs256())


def valid_ec_token() -> str:
    return token(header(alg="ES256", kid=EC_KID), claims(), es256)


@cache
def forged_tokens() -> dict[str, str]:
    """What an attacker without the issuer's key may send, and what the issuer signed for another purpose."""
    return {
        **_without_signature(),
        **_public_key_as_secret(),
        **_other_algorithms(),
        **_keys_in_the_header(),
        **_extensions(),
        **_damaged_signatures(),
        **_damaged_forms(),
        **_times(),
        **_identities(),
        **_ambiguous(),
    }


def _without_signature() -> dict[str, str]:
    spellings = ("none", "None", "NONE", "nOnE")
    tokens = {f"alg-{name}": f"{b64(json.dumps(header(alg=name)).encode())}." for name in spellings}
    tokens = {name: f"{first}{b64(json.dumps(claims()).encode())}." for name, first in tokens.items()}
    tokens |= {f"alg-{name}-signed": token(header(alg=name), claims(), rs256()) for name in spellings}
    odd = {"missing": ..., "null": None, "number": 1, "list": ["RS256"], "empty": "", "object": {"alg": "RS256"}}
    return tokens | {f"alg-{name}": token(header(alg=value), claims(), rs256()) for name, value in odd.items()}


def _public_key_as_secret() -> dict[str, str]:
    key, jwk = rsa_key(), rsa_jwk()
    secrets = {
        "pem": public_pem(key),
        "pem-without-newline": public_pem(key).strip(),
        "der": public_der(key),
        "jwk": json.dumps(jwk).encode(),
        "jwk-compact": json.dumps(jwk, separators=(",", ":")).encode(),
        "jwks": jwks(),
        "modulus": jwk["n"].encode(),
        "ec-pem": public_pem(ec_key()),
        "empty": b"",
    }
    tokens = {f"hs256-{name}": token(header(alg="HS256"), claims(), hmac_with(key)) for name, key in secrets.items()}
    for name, digest in (("HS384", hashlib.sha384), ("HS512", hashlib.sha512)):
        tokens[f"{name.lower()}-pem"] = token(header(alg=name), claims(), hmac_with(public_pem(key), digest))
    tokens["rs256-signed-with-hmac"] = token(header(), claims(), hmac_with(public_pem(key)))
    return tokens


def _other_algorithms() -> dict[str, str]:
    def rs384(data: bytes) -> bytes:
        return rsa_key().sign(data, padding.PKCS1v15(), hashes.SHA384())

    def ps256(data: bytes) -> bytes:
        return rsa_key().sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())

    return {
        "rs384-not-configured": token(header(alg="RS384"), claims(), rs384),
        "ps256-not-configured": token(header(alg="PS256"), claims(), ps256),
        "pss-called-rs256": token(header(), claims(), ps256),
        "es256-of-an-rsa-key": token(header(alg="ES256"), claims(), rs256()),
        "rs256-of-an-ec-key": token(header(kid=EC_KID), claims(), rs256()),
        "ec-signature-called-rs256": token(header(), claims(), es256),
        "lower-case": token(header(alg="rs256"), claims(), rs256()),
        "trailing-space": token(header(alg="RS256 "), claims(), rs256()),
        "eddsa": token(header(alg="EdDSA"), claims(), lambda _: bytes(64)),
        "encrypted": token(header(alg="RSA-OAEP", enc="A256GCM"), claims(), rs256()),
    }


def _keys_in_the_header() -> dict[str, str]:
    attacker = rsa_key("attacker")
    forged = rs256(attacker)
    jwk = rsa_jwk("attacker", attacker)
    kids: dict[str, Any] = {
        "unknown": "attacker",
        "traversal": "../../../../dev/null",
        "traversal-encoded": "..%2f..%2fdev%2fnull",
        "file-url": "file:///etc/passwd",
        "sql": "x' UNION SELECT 'key' -- ",
        "command": "key.pem; id |",
        "nul": "rsa-1\x00",
        "case": "RSA-1",
        "space": " rsa-1",
        "empty": "",
        "number": 1,
        "list": [RSA_KID],
        "true": True,
        "long": "k" * 300,
        "missing": ...,
    }
    tokens = {f"kid-{name}": token(header(kid=kid), claims(), forged) for name, kid in kids.items()}
    tokens["kid-traversal-empty-hmac"] = token(header(alg="HS256", kid="/dev/null"), claims(), hmac_with(b""))
    embedded: dict[str, Json] = {
        "jwk": {"jwk": jwk},
        "jwk-under-our-kid": {"jwk": {**jwk, "kid": RSA_KID}},
        "jku": {"jku": "https://attacker.example/jwks.json", "kid": "attacker"},
        "jku-known-kid": {"jku": "https://attacker.example/jwks.json"},
        "jku-loopback": {"jku": "http://127.0.0.1:1/jwks.json"},
        "x5u": {"x5u": "https://attacker.example/chain.pem"},
        "x5c": {"x5c": [base64.b64encode(public_der(attacker)).decode()]},
        "x5t": {"x5t": b64(hashlib.sha256(public_der(attacker)).digest())},
    }
    return tokens | {f"header-{name}": token(header(**more), claims(), forged) for name, more in embedded.items()}


def _extensions() -> dict[str, str]:
    heads: dict[str, Json] = {
        "crit-unknown": {"crit": ["x"], "x": 1},
        "crit-exp": {"crit": ["exp"], "exp": 0},
        "crit-empty": {"crit": []},
        "crit-text": {"crit": "exp"},
        "b64-false": {"b64": False, "crit": ["b64"]},
        "b64-without-crit": {"b64": False},
        "zip": {"zip": "DEF"},
        "typ-dpop": {"typ": "dpop+jwt"},
        "typ-logout": {"typ": "logout+jwt"},
        "typ-id-token-event": {"typ": "secevent+jwt"},
        "typ-number": {"typ": 1},
        "typ-null": {"typ": None},
    }
    return {name: token(header(**more), claims(), rs256()) for name, more in heads.items()}


def _damaged_signatures() -> dict[str, str]:
    good = valid_token()
    first, second, third = good.split(".")
    other = valid_token(sub="administrator").split(".")
    flipped = "A" if third[5] != "A" else "B"
    ecdsa = header(alg="ES256", kid=EC_KID)
    order = P256_ORDER.to_bytes(32, "big")
    return {
        "signature-stripped": f"{first}.{second}.",
        "signature-truncated": good[:-20],
        "signature-longer": good + "AAAA",
        "signature-one-byte": f"{first}.{second}.AA",
        "signature-flipped": f"{first}.{second}.{third[:5]}{flipped}{third[6:]}",
        "signature-zero": f"{first}.{second}.{b64(bytes(256))}",
        "signature-of-another-token": f"{first}.{other[1]}.{third}",
        "payload-changed": f"{first}.{b64(json.dumps(claims(scope='administrator')).encode())}.{third}",
        "ecdsa-zero": token(ecdsa, claims(), lambda _: bytes(64)),
        "ecdsa-order": token(ecdsa, claims(), lambda _: order + order),
        "ecdsa-der": token(ecdsa, claims(), lambda data: ec_key().sign(data, ec.ECDSA(hashes.SHA256()))),
        "ecdsa-short": token(ecdsa, claims(), lambda data: es256(data)[:63]),
        "ecdsa-attacker": token(ecdsa, claims(), lambda data: ec_key("attacker").sign(data, ec.ECDSA(hashes.SHA256()))),
        "rsa-attacker": token(header(), claims(), rs256(rsa_key("attacker"))),
    }


def _damaged_forms() -> dict[str, str]:
    good = valid_token()
    first, second, third = good.split(".")
    deep = b"[" * 2500 + b"]" * 2500
    return {
        "one-part": first,
        "two-parts": f"{first}.{second}",
        "four-parts": f"{good}.{third}",
        "five-parts-as-encrypted": f"{good}.{third}.{third}",
        "only-dots": "..",
        "leading-dot": f".{good}",
        "padding": f"{first}=.{second}.{third}",
        "signature-padding": f"{good}==",
        "inner-space": f"{first}.{second} .{third}",
        "characters-that-decoders-skip": f"{first}.{second}.{third[:9]}!~{third[9:]}",
        "standard-alphabet": f"{first}.{second}.{third[:9]}+/{third[9:]}",
        "json-serialisation": b64(json.dumps({"payload": second, "signatures": [{"signature": third}]}).encode()),
        "header-not-json": f"{b64(b'not json')}.{second}.{third}",
        "header-list": token(b'["RS256"]', claims(), rs256()),
        "header-not-utf8": token(b'{"alg":"RS256","kid":"\xff"}', claims(), rs256()),
        "header-deep": token(b'{"alg":"RS256","x":' + deep + b"}", b"{}", lambda _: bytes(256)),
        "payload-list": token(header(), b"[]", rs256()),
        "payload-text": token(header(), b'"sub"', rs256()),
        "payload-empty": token(header(), b"{}", rs256()),
        "payload-deep": token(header(), b'{"x":' + deep + b"}", rs256()),
        "payload-not-utf8": token(header(), b'{"sub":"\xff"}', rs256()),
        "nine-kilobytes": valid_token(padding="x" * 9000),
        "one-megabyte": valid_token(padding="x" * 2**20),
        "one-megabyte-of-dots": "." * 2**20,
    }


def _times() -> dict[str, str]:
    now = int(time.time())
    changes: dict[str, Json] = {
        "expired": {"exp": now - 3600},
        "expired-just-beyond-the-leeway": {"exp": now - 120},
        "exp-missing": {"exp": ...},
        "exp-null": {"exp": None},
        "exp-text": {"exp": str(now + 600)},
        "exp-true": {"exp": True},
        "exp-nan": {"exp": float("nan")},
        "exp-infinite": {"exp": float("inf")},
        "exp-negative": {"exp": -1},
        "exp-zero": {"exp": 0},
        "exp-list": {"exp": [now + 600]},
        "nbf-in-an-hour": {"nbf": now + 3600},
        "nbf-text": {"nbf": "0"},
        "nbf-true": {"nbf": True},
        "iat-in-an-hour": {"iat": now + 3600},
        "iat-missing": {"iat": ...},
        "iat-text": {"iat": str(now)},
    }
    tokens = {name: valid_token(**change) for name, change in changes.items()}
    tokens["exp-overflows"] = token(
        header(), json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": 1e999').encode(), rs256()
    )
    tokens["exp-of-5000-digits"] = token(
        header(), json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": ' + "9" * 5000).encode(), rs256()
    )
    return tokens


def _identities() -> dict[str, str]:
    changes: dict[str, Json] = {
        "iss-other": {"iss": "https://attacker.example"},
        "iss-missing": {"iss": ...},
        "iss-prefix": {"iss": ISSUER + "/"},
        "iss-case": {"iss": ISSUER.upper()},
        "iss-list": {"iss": [ISSUER]},
        "iss-empty": {"iss": ""},
        "aud-other": {"aud": "billing"},
        "aud-others": {"aud": ["billing", "mail"]},
        "aud-missing": {"aud": ...},
        "aud-empty": {"aud": []},
        "aud-prefix": {"aud": AUDIENCE + "-admin"},
        "aud-joined": {"aud": f"billing {AUDIENCE}"},
        "aud-object": {"aud": {AUDIENCE: True}},
        "aud-mixed-list": {"aud": [AUDIENCE, 1]},
        "aud-true": {"aud": True},
        "sub-missing": {"sub": ...},
        "sub-empty": {"sub": ""},
        "sub-number": {"sub": 7},
        "sub-long": {"sub": "x" * 1000},
        "scope-number": {"scope": 1},
        "scope-object": {"scope": {"depth:predict": True}},
        "scope-list-of-numbers": {"scope": [1]},
    }
    return {name: valid_token(**change) for name, change in changes.items()}


def _ambiguous() -> dict[str, str]:
    body = json.dumps(claims())
    twice = {
        "claim-exp-twice": body.replace("{", '{"exp": 1, ', 1),
        "claim-sub-twice": body[:-1] + ', "sub": "administrator"}',
        "claim-aud-twice": body.replace("{", '{"aud": "billing", ', 1),
        "claim-iss-twice": body.replace("{", '{"iss": "https://attacker.example", ', 1),
        "claim-nested-twice": body[:-1] + ', "x": {"a": 1, "a": 2}}',
        "claim-twice-by-escape": body[:-1] + ', "s\\u0075b": "administrator"}',
    }
    tokens = {name: token(header(), text.encode(), rs256()) for name, text in twice.items()}
    head = json.dumps(header())
    tokens["header-alg-twice"] = token(head.replace("{", '{"alg": "none", ', 1).encode(), claims(), rs256())
    tokens["header-kid-twice"] = token((head[:-1] + ', "kid": "attacker"}').encode(), claims(), rs256())
    return tokens
