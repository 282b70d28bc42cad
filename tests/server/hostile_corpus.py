"""Image files as an attacker, or a bad cable, would send them: generated, deterministic, two hundred and more."""

import io
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")
ORDER = "<"
LONG, SHORT, UNDEFINED = 4, 3, 7


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def corpus() -> dict[str, bytes]:
    """Every file by its name."""
    files: dict[str, bytes] = {}
    for group in (_no_images, _truncated, _mutated, _overwritten, _appended, _png, _jpeg, _tiff, _gif, _bmp, _webp):
        for name, data in group():
            assert name not in files, name
            files[name] = data
    return files


def _no_images() -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "one-byte", b"\xff"
    yield "zeros", bytes(4096)
    yield "ones", b"\xff" * 4096
    yield "noise", np.random.default_rng(2).bytes(65536)
    yield "text", b"this is not an image\n" * 100
    yield "html", b"<!doctype html><script>alert(1)</script>"
    yield (
        "svg-external-entity",
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg>&e;</svg>',
    )
    yield "pdf", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n"
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) (r) file\n"
    yield "imagemagick-script", b"push graphic-context\nfill 'url(https://127.0.0.1/\"|id\")'\npop graphic-context\n"
    yield "zip", b"PK\x03\x04" + bytes(60)
    yield "gzip-bomb", b"\x1f\x8b\x08\x00" + zlib.compress(bytes(10_000_000), 9)
    yield "elf", b"\x7fELF\x02\x01\x01" + bytes(60)
    yield "pickle", b"cos\nsystem\n(S'id'\ntR."
    yield "npy", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    for kind in ("PPM", "ICO", "TGA", "SGI", "PCX", "JPEG2000", "DIB", "EPS", "PDF", "XBM", "MSP", "ICNS"):
        image = picture("1") if kind in {"XBM", "MSP"} else picture()
        yield f"format-{kind.lower()}", encoded(image, kind)
    yield "fits-bomb", b"SIMPLE  =                    T".ljust(80) + b"NAXIS   = 999999".ljust(80) + b"END".ljust(2720)


def _truncated() -> Iterator[tuple[str, bytes]]:
    for kind in KINDS:
        whole = encoded(picture(), kind)
        for percent in (1, 5, 20, 50, 80, 99):
            yield f"{kind.lower()}-first-{percent}-percent", whole[: max(2, len(whole) * percent // 100)]


def _mutated() -> Iterator[tuple[str, bytes]]:
    for kind in KINDS:
        for seed in range(8):
            random = np.random.default_rng(seed)
            data = np.frombuffer(encoded(picture(), kind), dtype=np.uint8).copy()
            where = random.integers(4, len(data), max(1, len(data) // 200))
            data[where] = random.integers(0, 256, len(where))
            yield f"{kind.lower()}-mutated-{seed}", data.tobytes()


def _overwritten() -> Iterator[tuple[str, bytes]]:
    for kind in KINDS:
        whole = encoded(picture(), kind)
        for value in (0x00, 0x7F, 0xFF):
            for begin in (4, 16, len(whole) // 2):
                data = bytearray(whole)
                data[begin : begin + 8] = bytes([value]) * 8
                yield f"{kind.lower()}-{value:02x}-at-{begin}", bytes(data)


def _appended() -> Iterator[tuple[str, bytes]]:
    for kind in KINDS:
        yield f"{kind.lower()}-then-script", encoded(picture(), kind) + b"<?php system($_GET['x']); ?>" * 1000
        yield f"{kind.lower()}-then-itself", encoded(picture(), kind) * 50


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int], rows: bytes, *, bits: int = 8, colour: int = 0, before: bytes = b"", interlace: int = 0
) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _png() -> Iterator[tuple[str, bytes]]:
    rows = zlib.compress(bytes(9 * 8))
    bomb = zlib.compress(bytes(50_000_000), 9)
    yield "png-50-megapixels", png((10_000, 5_000), bomb)
    yield "png-10-gigapixels", png((100_000, 100_000), rows)
    yield "png-largest-sides", png((0x7FFFFFFF, 0x7FFFFFFF), rows)
    yield "png-negative-sides", png((0xFFFFFFFF, 0xFFFFFFFF), rows)
    yield "png-20000-wide", png((20_000, 1), zlib.compress(bytes(20_001)))
    yield "png-no-size", png((0, 0), rows)
    yield "png-no-width", png((0, 8), rows)
    yield "png-pixels-go-on", png((8, 8), bomb)
    yield "png-pixels-missing", png((64, 64), zlib.compress(bytes(10)))
    yield "png-pixels-are-noise", png((8, 8), np.random.default_rng(5).bytes(64))
    yield "png-interlaced-short", png((64, 64), zlib.compress(bytes(10)), interlace=1)
    yield "png-unknown-filter", png((8, 8), zlib.compress((b"\x09" + bytes(8)) * 8))
    for bits, colour in ((7, 0), (8, 5), (16, 3), (1, 2), (0, 0), (255, 255)):
        yield f"png-{bits}-bits-of-colour-{colour}", png((8, 8), rows, bits=bits, colour=colour)
    yield "png-palette-missing", png((8, 8), rows, colour=3)
    yield "png-palette-too-long", png((8, 8), rows, colour=3, before=chunk(b"PLTE", bytes(3 * 300)))
    yield "png-palette-no-multiple", png((8, 8), rows, colour=3, before=chunk(b"PLTE", bytes(7)))
    yield "png-text-bomb", png((8, 8), rows, before=chunk(b"zTXt", b"k\x00\x00" + bomb))
    yield (
        "png-many-text-bombs",
        png((8, 8), rows, before=chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(900_000), 9)) * 200),
    )
    yield "png-unicode-text-bomb", png((8, 8), rows, before=chunk(b"iTXt", b"k\x00\x01\x00\x00\x00" + bomb))
    yield "png-profile-bomb", png((8, 8), rows, before=chunk(b"iCCP", b"k\x00\x00" + bomb))
    yield (
        "png-header-twice",
        png((8, 8), rows, before=chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))),
    )
    yield "png-100000-chunks", png((8, 8), rows, before=chunk(b"abCd", b"") * 100_000)
    yield "png-chunk-longer-than-file", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0x7FFFFFFF) + b"IHDR" + bytes(13)
    yield "png-chunk-name-not-ascii", png((8, 8), rows, before=chunk(b"\xff\xfe\xfd\xfc", b"x"))
    yield "png-transparency-too-long", png((8, 8), rows, before=chunk(b"tRNS", bytes(1000)))
    yield "png-animation-of-ages", png((8, 8), rows, before=chunk(b"acTL", struct.pack(">II", 0x7FFFFFFF, 0)))
    yield "png-exif-of-overlapping-tags", png((8, 8), rows, before=chunk(b"eXIf", overlapping_tags(300, 1_000_000)))
    yield (
        "png-exif-of-noise",
        png((8, 8), rows, before=chunk(b"eXIf", b"II*\x00" + np.random.default_rng(3).bytes(5000))),
    )


def _jpeg() -> Iterator[tuple[str, bytes]]:
    whole = encoded(picture(), "JPEG")
    size = struct.pack(">HH", 48, 64)
    frame = whole.index(size) - 5
    progressive = encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    yield "jpeg-4-gigapixels", whole.replace(size, b"\xff\xff\xff\xff", 1)
    yield "jpeg-no-size", whole.replace(size, bytes(4), 1)
    yield "jpeg-scans-without-end", progressive[:-2] + scan * 40_000 + b"\xff\xd9"
    yield "jpeg-scans-100", progressive[:-2] + scan * 80 + b"\xff\xd9"
    yield "jpeg-no-frame", b"\xff\xd8\xff\xd9"
    yield "jpeg-no-end", whole[:-2]
    yield "jpeg-only-starts", b"\xff\xd8" * 50_000
    yield "jpeg-only-markers", b"\xff\xd8" + b"\xff\xfe\x00\x02" * 200_000
    yield "jpeg-only-fill", b"\xff\xd8" + b"\xff" * 1_000_000
    yield "jpeg-only-restarts", whole[:-2] + b"\xff\xd0" * 200_000
    yield "jpeg-segment-of-length-0", b"\xff\xd8\xff\xe0\x00\x00" + whole[2:]
    yield "jpeg-segment-longer-than-file", b"\xff\xd8\xff\xe0\xff\xff" + whole[2:200]
    for kind in (0xC3, 0xC5, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCF):
        data = bytearray(whole)
        data[frame + 1] = kind
        yield f"jpeg-frame-{kind:02x}", bytes(data)
    for offset, value in ((4, 12), (4, 0), (9, 0), (9, 255), (11, 0), (11, 0xFF), (12, 9)):
        data = bytearray(whole)
        data[frame + offset] = value
        yield f"jpeg-frame-byte-{offset}-is-{value}", bytes(data)
    yield "jpeg-tables-missing", whole.replace(b"\xff\xc4", b"\xff\xfe")
    yield "jpeg-quantisation-missing", whole.replace(b"\xff\xdb", b"\xff\xfe")
    for orientation in (0, 9, 65535):
        yield f"jpeg-orientation-{orientation}", _with_exif(whole, _exif(0x0112, SHORT, 1, orientation))
    yield "jpeg-orientation-is-a-list", _with_exif(whole, _exif(0x0112, SHORT, 20_000, 8))
    yield "jpeg-orientation-is-text", _with_exif(whole, _exif(0x0112, 2, 4, 0x00414141))
    yield "jpeg-exif-loops", _with_exif(whole, _exif(0x8769, LONG, 1, 8))
    yield "jpeg-exif-outside", _with_exif(whole, _exif(0x8769, LONG, 1, 0xFFFFFFF0))
    yield "jpeg-exif-of-overlapping-tags", _with_exif(whole, overlapping_tags(2000, 30_000))
    yield (
        "jpeg-profile-in-255-parts",
        whole[:2]
        + b"".join(_segment(0xE2, b"ICC_PROFILE\x00" + bytes([n, 255]) + bytes(60_000)) for n in range(1, 30))
        + whole[2:],
    )
    yield "jpeg-multi-picture", whole[:2] + _segment(0xE2, b"MPF\x00" + _exif(0xB001, LONG, 1, 0x7FFFFFFF)) + whole[2:]
    yield (
        "jpeg-photoshop-of-noise",
        whole[:2] + _segment(0xED, b"Photoshop 3.0\x00" + np.random.default_rng(4).bytes(9000)) + whole[2:],
    )
    yield "jpeg-adobe-transform-9", whole[:2] + _segment(0xEE, b"Adobe\x00\x64\x00\x00\x00\x00\x09") + whole[2:]
    yield "jpeg-cmyk-truncated", encoded(picture("CMYK"), "JPEG")[:-300]


def _segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def _with_exif(jpeg: bytes, exif: bytes) -> bytes:
    return jpeg[:2] + _segment(0xE1, (b"Exif\x00\x00" + exif)[:65_000]) + jpeg[2:]


def _exif(tag: int, kind: int, count: int, value: int) -> bytes:
    return b"II*\x00" + struct.pack("<IHHHIII", 8, 1, tag, kind, count, value, 0)


def entry(tag: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value)


def tiff(entries: list[bytes], payload: bytes = b"") -> bytes:
    """Payload at byte 8, then a directory."""
    directory = struct.pack("<H", len(entries)) + b"".join(sorted(entries)) + bytes(4)
    return b"II*\x00" + struct.pack("<I", 8 + len(payload)) + payload + directory


def grey_tiff(width: int, height: int, compression: int = 1, *more: bytes, payload: bytes = bytes(4096)) -> bytes:
    pairs = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 277: 1}
    entries = [entry(tag, LONG, 1, value) for tag, value in pairs.items()]
    if not more:
        more = (entry(273, LONG, 1, 8), entry(278, LONG, 1, height), entry(279, LONG, 1, len(payload)))
    return tiff([*entries, *more], payload)


def overlapping_tags(count: int, size: int) -> bytes:
    """Tags that all say that their value is the whole payload."""
    return tiff([entry(40_000 + index, UNDEFINED, size, 8) for index in range(count)], bytes(size))


def _tiff() -> Iterator[tuple[str, bytes]]:
    offsets = struct.pack("<I", 8) * 2_000_000
    yield (
        "tiff-2-million-strips",
        grey_tiff(
            16,
            2_000_000,
            1,
            entry(273, LONG, 2_000_000, 8),
            entry(278, LONG, 1, 1),
            entry(279, LONG, 2_000_000, 8),
            payload=offsets,
        ),
    )
    yield (
        "tiff-2-million-tiles",
        grey_tiff(
            16,
            16,
            1,
            entry(322, LONG, 1, 16),
            entry(323, LONG, 1, 16),
            entry(324, LONG, 2_000_000, 8),
            entry(325, LONG, 2_000_000, 8),
            payload=offsets,
        ),
    )
    yield (
        "tiff-strips-announced-and-missing",
        grey_tiff(16, 16, 1, entry(273, LONG, 0xFFFFFFFF, 8), entry(278, LONG, 1, 1)),
    )
    yield "tiff-10-gigapixels", grey_tiff(100_000, 100_000)
    yield "tiff-largest-sides", grey_tiff(0xFFFFFFFF, 0xFFFFFFFF)
    yield "tiff-no-size", grey_tiff(0, 0)
    for side in (0, 17, 60_000, 0x7FFFFFF0):
        yield (
            f"tiff-tile-of-{side}",
            grey_tiff(
                16,
                16,
                5,
                entry(322, LONG, 1, side),
                entry(323, LONG, 1, side),
                entry(324, LONG, 1, 8),
                entry(325, LONG, 1, 50),
            ),
        )
    for compression in (
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        32766,
        32771,
        32773,
        32809,
        32908,
        32946,
        34661,
        34676,
        34677,
        34712,
        34887,
        34925,
        50000,
        50001,
        65535,
    ):
        noise = np.random.default_rng(compression).bytes(4096)
        yield f"tiff-compression-{compression}-of-noise", grey_tiff(64, 64, compression, payload=noise)
    yield "tiff-deflate-bomb", grey_tiff(64, 64, 8, payload=zlib.compress(bytes(50_000_000), 9))
    yield (
        "tiff-strip-outside",
        grey_tiff(64, 64, 1, entry(273, LONG, 1, 0x7FFFFFFF), entry(278, LONG, 1, 64), entry(279, LONG, 1, 4096)),
    )
    yield (
        "tiff-rows-per-strip-0",
        grey_tiff(64, 64, 1, entry(273, LONG, 1, 8), entry(278, LONG, 1, 0), entry(279, LONG, 1, 4096)),
    )
    yield "tiff-directory-outside", b"II*\x00" + struct.pack("<I", 0x7FFFFFFF) + bytes(64)
    yield "tiff-directory-is-the-header", b"II*\x00" + struct.pack("<I", 0) + bytes(64)
    yield "tiff-directory-loops", b"II*\x00" + struct.pack("<IHI", 8, 0, 8) + bytes(64)
    yield "tiff-65535-entries", b"II*\x00" + struct.pack("<IH", 8, 65535) + entry(256, LONG, 1, 8) * 65535
    yield "tiff-overlapping-tags", overlapping_tags(900, 1_000_000)
    yield "tiff-bits-per-sample-1000", grey_tiff(16, 16, 1, entry(258, SHORT, 1000, 8), entry(273, LONG, 1, 8))
    yield "tiff-samples-per-pixel-65535", grey_tiff(16, 16, 1, entry(277, LONG, 1, 65535), entry(273, LONG, 1, 8))
    yield "tiff-float", encoded(Image.fromarray(np.ones((8, 8), dtype=np.float32)), "TIFF")
    yield "tiff-int32", encoded(Image.fromarray(np.full((8, 8), 70_000, dtype=np.int32)), "TIFF")
    yield "bigtiff-empty", b"II+\x00\x08\x00\x00\x00" + struct.pack("<QQ", 16, 0)
    yield "bigtiff-entries", b"II+\x00\x08\x00\x00\x00" + struct.pack("<QQ", 16, 2**63) + bytes(64)
    yield "bigtiff-big-endian", b"MM\x00+\x00\x08\x00\x00" + struct.pack(">QQ", 16, 1) + bytes(64)


def _gif() -> Iterator[tuple[str, bytes]]:
    whole = encoded(picture("P"), "GIF")
    yield "gif-4-gigapixels", whole[:6] + b"\xff\xff\xff\xff" + whole[10:]
    yield "gif-no-size", whole[:6] + bytes(4) + whole[10:]
    yield "gif-no-frame", b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b";"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0)
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6)
    yield "gif-code-size-0", head + frame + b"\x00\x02\x44\x01\x00;"
    yield "gif-code-size-255", head + frame + b"\xff\x02\x44\x01\x00;"
    yield (
        "gif-frame-outside",
        head + b"," + struct.pack("<HHHHB", 60_000, 60_000, 5000, 5000, 0) + b"\x02\x02\x44\x01\x00;",
    )
    yield (
        "gif-frame-larger-than-screen",
        head + b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x44\x01\x00;",
    )
    yield "gif-100000-frames", head + (frame + b"\x02\x02\x44\x01\x00") * 100_000 + b";"
    yield "gif-extensions-without-end", head + b"!\xfe\x01x\x00" * 200_000
    yield "gif-comment-without-end", head + b"!\xfe" + (b"\xff" + bytes(255)) * 10_000
    yield "gif-unknown-blocks", head + b"\x99" * 100_000


def _bmp() -> Iterator[tuple[str, bytes]]:
    def bmp(
        width: int, height: int, *, bits: int = 24, compression: int = 0, colours: int = 0, body: bytes = bytes(4096)
    ) -> bytes:
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colours, 0)
        return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + info + body

    yield "bmp-10-gigapixels", bmp(100_000, 100_000)
    yield "bmp-largest-sides", bmp(0x7FFFFFFF, 0x7FFFFFFF)
    yield "bmp-negative-height", bmp(8, -0x80000000)
    yield "bmp-negative-width", bmp(-8, 8)
    yield "bmp-no-size", bmp(0, 0)
    for bits in (0, 2, 7, 12, 64, 65535):
        yield f"bmp-{bits}-bits", bmp(8, 8, bits=bits)
    for compression in (1, 2, 3, 4, 5, 6, 11, 0xFFFFFFFF):
        yield f"bmp-compression-{compression}", bmp(8, 8, bits=8, compression=compression)
    yield "bmp-4-million-colours", bmp(8, 8, bits=8, colours=4_000_000)
    yield "bmp-run-lengths", bmp(4000, 1000, bits=8, compression=1, body=bytes(1024) + b"\x01\x05" * 1_000_000)
    yield "bmp-header-of-2-gigabytes", b"BM" + struct.pack("<IHHII", 54, 0, 0, 54, 0x7FFFFFFF) + bytes(64)


def _webp() -> Iterator[tuple[str, bytes]]:
    def riff(body: bytes) -> bytes:
        return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body

    def part(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    def extended(flags: int, width: int, height: int) -> bytes:
        sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        return part(b"VP8X", bytes([flags, 0, 0, 0]) + sides)

    whole = encoded(picture(), "WEBP")
    frame = part(b"ANMF", bytes(16) + whole[12:])
    yield "webp-empty", riff(b"")
    yield "webp-268-megapixels", riff(extended(0, 16_384, 16_384) + whole[12:])
    yield "webp-280-terapixels", riff(extended(0, 2**24, 2**24) + whole[12:])
    yield "webp-animation-268-megapixels", riff(extended(2, 16_383, 16_383) + part(b"ANIM", bytes(6)) + frame)
    yield "webp-animation-of-20000-frames", riff(extended(2, 64, 48) + part(b"ANIM", bytes(6)) + frame * 20_000)
    yield "webp-animation-without-frames", riff(extended(2, 64, 48) + part(b"ANIM", bytes(6)))
    yield "webp-length-too-large", b"RIFF\xff\xff\xff\xff" + whole[8:]
    yield "webp-lossless-of-noise", riff(part(b"VP8L", b"\x2f" + np.random.default_rng(6).bytes(4000)))
    yield "webp-lossless-268-megapixels", riff(part(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(4000)))
    yield (
        "webp-exif-of-overlapping-tags",
        riff(extended(8, 64, 48) + whole[12:] + part(b"EXIF", overlapping_tags(300, 1_000_000))),
    )
