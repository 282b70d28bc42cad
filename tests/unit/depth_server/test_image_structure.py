"""Files that are cheap to send and expensive to decode."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depth_server.decode import ImageLimits, decode_image
from depth_server.errors import InvalidImageError, UnsupportedMediaError
from depth_server.image_structure import (
    MAX_JPEG_SCANS,
    MAX_TIFF_PIECES,
    TIFF_LAYOUTS,
    check_structure,
    count_jpeg_scans,
    count_tiff_pieces,
)

LIMITS = ImageLimits(40_000_000, 16_384)


def encoded(kind: str, **options: object) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded("JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * (count - data.count(b"\xff\xda")) + b"\xff\xd9"


def tiff(pieces: int, *, order: str = "<", big: bool = False, entries: int = 1) -> bytes:
    """A directory that announces so many strips."""
    first = b"II" if order == "<" else b"MM"
    entry = struct.pack(order + ("HHQQ" if big else "HHII"), 273, 4, pieces, 8)
    if big:
        return first + struct.pack(order + "HHHQQ", 43, 8, 0, 16, entries) + entry * entries
    return first + struct.pack(order + "HIH", 42, 8, entries) + entry * entries


def test_scans_of_a_jpeg_are_bounded() -> None:
    assert decode_image(with_scans(MAX_JPEG_SCANS), LIMITS).shape == (64, 48, 3)
    with pytest.raises(InvalidImageError, match="more than 100 scans"):
        decode_image(with_scans(MAX_JPEG_SCANS + 1), LIMITS)


def test_a_jpeg_may_contain_the_marker_of_a_scan_in_its_metadata() -> None:
    data = encoded("JPEG", comment=b"\xff\xda" * 5000)
    assert count_jpeg_scans(data) == 1
    assert decode_image(data, LIMITS).shape == (64, 48, 3)


def test_restarts_are_no_scans() -> None:
    data = encoded("JPEG", restart_marker_blocks=1)
    assert data.count(b"\xff\xd0") > 1
    assert count_jpeg_scans(data) == 1


def test_a_jpeg_of_nothing_but_markers_counts_as_too_many() -> None:
    assert count_jpeg_scans(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 20_000) > MAX_JPEG_SCANS


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_strips_of_a_tiff_are_bounded(order: str, big: bool) -> None:
    check_structure(tiff(MAX_TIFF_PIECES, order=order, big=big))
    with pytest.raises(InvalidImageError, match="strips or tiles"):
        check_structure(tiff(MAX_TIFF_PIECES + 1, order=order, big=big))
    with pytest.raises(InvalidImageError, match="strips or tiles"):
        check_structure(tiff(1, order=order, big=big, entries=1001))


def test_the_strips_of_a_real_tiff_are_counted() -> None:
    data = encoded("TIFF", tiffinfo={278: 1})
    assert count_tiff_pieces(data) == 64
    assert decode_image(data, LIMITS).shape == (64, 48, 3)


def test_run_length_coded_bmp_is_refused() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 8, 1, 0, 0, 0, 256, 0)
    data = (
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + b"\x08\x05\x00\x00" * 8 + b"\x00\x01"
    )
    with pytest.raises(UnsupportedMediaError, match="bmp_rle"):
        decode_image(data, LIMITS)


MANY = 20_000
GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * MANY,
        b"\xff\xd8" + b"\xff\x00" * MANY,
        b"\xff\xd8" + b"\xff\xd0" * MANY,
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * MANY,
        b"\x89PNG\r\n\x1a\n" + (bytes(4) + b"abCd" + bytes(4)) * MANY,
        GIF_HEAD + b"!\xfe\x01x\x00" * MANY,
        GIF_HEAD + b"!\xfe" + b"\x01x" * MANY,
        GIF_HEAD + b"\x99" * MANY,
    ],
)
def test_parts_of_a_header_are_bounded(data: bytes) -> None:
    with pytest.raises(InvalidImageError, match="more than 10000 parts"):
        check_structure(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_ordinary_files_pass(kind: str) -> None:
    check_structure(encoded(kind))


@given(st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", *TIFF_LAYOUTS]), st.binary(max_size=600))
def test_any_damage_is_left_to_the_decoder_or_refused(start: bytes, rest: bytes) -> None:
    try:
        check_structure(start + rest)
    except InvalidImageError:
        return


JPEG_PARTS = [b"\xff\xda\x00\x02", b"\xff\xd0", b"\x00", b"\xff\x00", b"\xff\xff", b"\xff\xfe\x00\x04ab", b"x"]


@given(st.lists(st.sampled_from(JPEG_PARTS)))
def test_the_rough_count_is_never_too_few(parts: list[bytes]) -> None:
    data = b"\xff\xd8" + b"".join(parts)
    assert count_jpeg_scans(data) <= data.count(b"\xff\xda")
