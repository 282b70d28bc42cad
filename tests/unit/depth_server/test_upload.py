from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.errors import InvalidRequestError, UnsupportedMediaError, UploadTooLargeError
from depth_server.upload import MAX_PARTS, FormFileParser, read_form_file

TYPE = "multipart/form-data; boundary=xyz"


def part(name: str, content: bytes, extra: str = "") -> bytes:
    head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


def parse(body: bytes, content_type: str = TYPE) -> bytes:
    parser = FormFileParser(content_type)
    parser.feed(body)
    return parser.finish()


@given(st.binary(max_size=300), st.integers(1, 40))
def test_file_survives_any_chunking(content: bytes, size: int) -> None:
    body = form(part("file", content, '; filename="a.jpg"'))
    parser = FormFileParser(TYPE)
    for start in range(0, len(body), size):
        parser.feed(body[start : start + size])
    expected = content.split(b"\r\n--xyz")[0]
    assert parser.finish() == expected


def test_other_fields_are_skipped_and_the_first_file_wins() -> None:
    assert parse(form(part("note", b"hello"), part("file", b"one"), part("file", b"two"))) == b"one"


@pytest.mark.parametrize("content_type", ["", "application/json", "image/jpeg", "application/x-www-form-urlencoded"])
def test_other_media_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaError, match="expected multipart/form-data with the field 'file'"):
        parse(b"", content_type)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(part("image", b"x")), "no field 'file'"),
        (b"--xyz--\r\n", "no field 'file'"),
        (b"", "no field 'file'"),
        (part("file", b"x"), "ends before its closing boundary"),
        (b"garbage", "damaged"),
        (form(*[part(f"f{index}", b"") for index in range(MAX_PARTS + 1)]), "more than 8 parts"),
        (form(part("file", b"x", "; filename=" + "a" * 100_000)), "damaged"),
        (form(b"--xyz\r\n\r\nno headers\r\n"), "no field 'file'"),
    ],
    ids=["other field", "no part", "empty", "cut", "garbage", "many parts", "long header", "no header"],
)
def test_damaged_forms_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        parse(body)


def test_missing_boundary_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="boundary"):
        parse(b"", "multipart/form-data")


@given(st.binary(max_size=400))
def test_any_bytes_give_a_file_or_a_refusal(body: bytes) -> None:
    try:
        parse(b"--xyz\r\n" + body)
    except InvalidRequestError:
        return


async def test_nothing_is_read_past_the_limit() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--xyz\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        while True:
            sent += 100
            yield bytes(100)

    total = 0

    def count(size: int) -> None:
        nonlocal total
        total += size
        if total > 1000:
            raise UploadTooLargeError("more than 1000 bytes")

    with pytest.raises(UploadTooLargeError):
        await read_form_file(TYPE, endless(), count)
    assert sent <= 1100
