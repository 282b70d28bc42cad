import hashlib

import pytest

from depth_server.api_keys import MAX_KEYS, find_api_key, parse_api_keys

KEY = "k3y-" * 10
OTHER = "0th3r-key-" * 4


def line(name: str, key: str, scopes: str = "") -> str:
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()} {scopes}\n"


def test_a_key_is_known_by_its_digest() -> None:
    keys = parse_api_keys(f"# cameras\n\n{line('camera-7', KEY, 'depth:predict x')}{line('ops', OTHER)}".encode())
    found = find_api_key(keys, KEY)
    assert found is not None
    assert (found.name, found.scopes) == ("camera-7", frozenset({"depth:predict", "x"}))
    assert KEY not in repr(keys)


@pytest.mark.parametrize(
    "presented", ["", "x", KEY[:-1], KEY + "x", KEY.upper(), KEY * 100, "\udcff" * 40, "\x00" * 40]
)
def test_anything_else_is_unknown(presented: str) -> None:
    assert find_api_key(parse_api_keys(line("camera-7", KEY).encode()), presented) is None


def test_the_digest_is_no_key() -> None:
    keys = parse_api_keys(line("camera-7", KEY).encode())
    assert find_api_key(keys, keys[0].digest.hex()) is None


def test_a_key_that_can_be_guessed_is_never_valid() -> None:
    assert find_api_key(parse_api_keys(line("camera-7", "password").encode()), "password") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "0 keys"),
        ("# nothing\n", "0 keys"),
        (f"camera-7 {KEY}\n", "line 1 is not"),
        (f"camera-7 sha256:{KEY}\n", "line 1 is not"),
        (line("ok", KEY) + f"sha256:{'0' * 64}\n", "line 2 is not"),
        (line("a", KEY) + line("a", OTHER), "line 2 repeats"),
        (line("a", KEY) + line("b", KEY), "line 2 repeats"),
        ("".join(line(str(index), KEY + str(index)) for index in range(MAX_KEYS + 1)), "1001 keys"),
    ],
)
def test_a_wrong_file_is_refused_without_quoting_it(content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        parse_api_keys(content.encode())
    assert KEY not in str(raised.value)


def test_a_file_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        parse_api_keys(b"\xff\xfe")
