"""API keys of which the server knows only the digest; pure.

A file has one key per line: a name, `sha256:` with the key's digest in 64 hex digits, and the key's scopes. Empty lines
and lines that begin with `#` mean nothing. Keys are random, so a plain digest hides them as well as a slow one would.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MIN_KEY_LENGTH: Final = 32
"""Characters of a key; a shorter one is never valid, since it may be guessed from its digest. `openssl rand -hex 32`
makes 64."""

MAX_KEY_LENGTH: Final = 512
"""Characters of a key that are looked at."""

MAX_KEYS: Final = 1000
"""Keys of a file: each request is compared with all."""

LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9._@-]{1,64})\s+sha256:(?P<digest>[0-9a-f]{64})(?:\s+(?P<scopes>\S.*))?")
"""One key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key.

    Attributes:
        name: Of whoever holds it.
        digest: SHA-256 of the key.
        scopes: What it is for.
    """

    name: str
    digest: bytes
    scopes: frozenset[str]


def parse_api_keys(content: bytes) -> tuple[ApiKey, ...]:
    """Read a file of keys.

    Raises:
        ValueError: A line is not a key, a key is there twice, there are none or too many. The message names the line
            and never quotes it: it may hold a key by mistake.
    """
    keys: list[ApiKey] = []
    for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if match is None:
            message = f"line {number} is not `name sha256:<64 hex digits> [scope ...]`"
            raise ValueError(message)
        key = ApiKey(match["name"], bytes.fromhex(match["digest"]), frozenset((match["scopes"] or "").split()))
        if any(key.name == other.name or key.digest == other.digest for other in keys):
            message = f"line {number} repeats the name or the digest of another line"
            raise ValueError(message)
        keys.append(key)
    if not 0 < len(keys) <= MAX_KEYS:
        message = f"it holds {len(keys)} keys, expected 1 to {MAX_KEYS}"
        raise ValueError(message)
    return tuple(keys)


def find_api_key(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """Find a key in time that depends on nothing but how many there are."""
    if not MIN_KEY_LENGTH <= len(presented) <= MAX_KEY_LENGTH:
        return None
    digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
    found: ApiKey | None = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found
