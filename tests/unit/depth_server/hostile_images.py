"""Files that are wrong in ways seen in the wild or made on purpose, each with the answer it deserves."""

import io
import struct
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

BAD, TOO_LARGE, UNSUPPORTED = 400, 413, 415


@dataclass(frozen=True)
class HostileFile:
    name: str
    data: bytes
    statuses: frozenset[int]
    """Any of these is right, for example where truncation makes the format unrecognisable."""


def photo(width: int = 48, height: int = 32) -> Image.Image:
    """A small picture with structure."""
    pixels = np.random.default_rng(1).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, idat: bytes, bits: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", idat), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@cache
def hostile_files() -> tuple[HostileFile, ...]:
    """The corpus; deterministic."""
    files = [
        HostileFile("empty", b"", frozenset({BAD})),
        *(HostileFile(name, data, frozenset({UNSUPPORTED})) for name, data in _no_images()),
        *(HostileFile(name, data, frozenset({BAD, UNSUPPORTED})) for name, data in _damaged()),
        *(HostileFile(name, data, frozenset({TOO_LARGE})) for name, data in _bombs()),
    ]
    return tuple(files)


def _no_images() -> list[tuple[str, bytes]]:
    return [
        ("text", b"this is not an image\n"),
        ("html", b"<!doctype html><html><body>404</body></html>"),
        ("json", b'{"file": "x"}'),
        ("svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>'),
        ("pdf", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n"),
        ("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"),
        ("zip", b"PK\x03\x04" + bytes(60)),
        ("elf", b"\x7fELF\x02\x01\x01" + bytes(60)),
        ("zeros", bytes(4096)),
        ("noise", np.random.default_rng(2).bytes(4096)),
        ("one-byte", b"\xff"),
        ("script", b"#!/bin/sh\nexit 0\n"),
        ("pickle", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x08builtins\x94."),
        ("ppm-format-not-on-the-list", encoded(photo(), "PPM")),
        ("ico-format-not-on-the-list", encoded(photo(), "ICO")),
        ("tga-format-not-on-the-list", encoded(photo(), "TGA")),
        ("fits-format-not-on-the-list", b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800)),
        ("float-tiff", encoded(Image.fromarray(np.ones((8, 8), dtype=np.float32)), "TIFF")),
        ("int32-tiff", encoded(Image.fromarray(np.full((8, 8), 70000, dtype=np.int32)), "TIFF")),
    ]


def _damaged() -> list[tuple[str, bytes]]:
    files: list[tuple[str, bytes]] = []
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        whole = encoded(photo(), kind)
        files += [
            (f"{kind.lower()}-header-only", whole[:24]),
            (f"{kind.lower()}-half", whole[: len(whole) // 2]),
            (f"{kind.lower()}-magic-only", whole[:4]),
        ]
    jpeg, whole_png = encoded(photo(), "JPEG"), encoded(photo(), "PNG")
    damaged_crc = bytearray(whole_png)
    damaged_crc[30] ^= 0xFF
    files += [
        ("jpeg-without-frame", b"\xff\xd8\xff\xd9"),
        ("jpeg-zero-size", jpeg.replace(struct.pack(">HH", 32, 48), bytes(4), 1)),
        ("png-bad-header-crc", bytes(damaged_crc)),
        ("png-zero-size", png(0, 0, zlib.compress(b""))),
        ("png-idat-is-noise", png(8, 8, np.random.default_rng(5).bytes(64))),
        ("png-idat-too-short", png(64, 64, zlib.compress(bytes(10)))),
        ("png-unknown-bit-depth", png(8, 8, zlib.compress(bytes(72)), bits=7)),
        ("png-unknown-colour-type", png(8, 8, zlib.compress(bytes(72)), colour=5)),
        ("tiff-directory-outside", b"II*\x00" + struct.pack("<I", 0x7FFFFFFF) + bytes(64)),
        ("tiff-directory-loop", b"II*\x00" + struct.pack("<IHI", 8, 0, 8) + bytes(64)),
        ("gif-without-frame", b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b";"),
        ("webp-empty-riff", b"RIFF" + struct.pack("<I", 4) + b"WEBP"),
        ("bmp-huge-header", b"BM" + struct.pack("<IHHII", 54, 0, 0, 54, 0x7FFFFFFF) + bytes(64)),
    ]
    return files


def _bombs() -> list[tuple[str, bytes]]:
    long_row = zlib.compress(bytes(20_001))
    return [
        # 50 million pixels in 49 KB, and 10^10 announced in some bytes: refused by their headers.
        ("png-bomb-50-megapixels", png(10_000, 5_000, zlib.compress(bytes(10_001 * 5_000), 9))),
        ("png-announces-10-gigapixels", png(100_000, 100_000, zlib.compress(bytes(100)))),
        ("png-announces-200-megapixels", png(20_000, 10_000, zlib.compress(bytes(100)))),
        ("png-one-row-20000-wide", png(20_000, 1, long_row)),
        ("gif-announces-4-gigapixels", b"GIF89a" + struct.pack("<HH", 65535, 65535) + encoded(photo(), "GIF")[10:]),
        ("bmp-announces-10-gigapixels", _bmp(100_000, 100_000)),
        ("jpeg-announces-4-gigapixels", _jpeg_with_size(65_500, 65_500)),
    ]


def _bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def _jpeg_with_size(width: int, height: int) -> bytes:
    return encoded(photo(), "JPEG").replace(struct.pack(">HH", 32, 48), struct.pack(">HH", height, width), 1)
