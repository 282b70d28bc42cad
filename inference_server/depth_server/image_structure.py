"""Refuses image files that are cheap to send and expensive to decode, by their structure; pure.

The number of pixels bounds most of a decoder's work, and `decode` checks it before any pixel is decoded. What it does
not bound is here: how often a JPEG's pixels are visited, into how many pieces a TIFF's pixels are cut, and how many
parts a header has, which Pillow reads one by one in Python.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from depth_server.errors import InvalidImageError

JPEG_START: Final = b"\xff\xd8"
"""Marker SOI, the first of every JPEG (ITU-T T.81 annex B)."""

JPEG_SCAN: Final = 0xDA
"""Marker SOS. A progressive picture of three colours has about ten; each makes the decoder visit every block, and an
empty one takes 50 bytes: 150 KB of them over 36 megapixels took 4 s, and 20 MB would take hours."""

JPEG_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xDA)})
"""Markers that no length follows: TEM, RST0 to RST7, SOI, EOI."""

JPEG_MARKER: Final = re.compile(rb"\xff+([^\x00\xff])")
"""The next marker in entropy-coded data, where a byte 0xFF is followed by 0x00."""

MAX_JPEG_SCANS: Final = 100
"""Scans of a JPEG; libtiff's limit for JPEG in TIFF."""

MAX_PARTS: Final = 10_000
"""Segments, chunks or blocks of a file that Pillow reads in Python, and stray bytes between them; libpng's own chunks
of 8 KiB make 2560 of 20 MB. At the limit of an upload they took 4 s as blocks of a GIF, 11 s as chunks of a PNG and
18 s as stray bytes of a JPEG."""

PNG_START: Final = b"\x89PNG\r\n\x1a\n"
"""Signature of every PNG (PNG third edition, section 5.2)."""

PNG_CHUNK_FRAME: Final = 12
"""Bytes of a PNG chunk beside its data: length, name and checksum."""

GIF_STARTS: Final = (b"GIF87a", b"GIF89a")
"""Signatures of GIF."""

GIF_HEADER: Final = 13
"""Bytes of a GIF before its colours."""

GIF_EXTENSION: Final = 0x21
"""First byte of a GIF's extension, which sub-blocks follow."""

GIF_IMAGE: Final = 0x2C
"""First byte of a GIF's picture."""

MAX_JPEG_MARKERS: Final = 10_000
"""Markers of a JPEG, restarts not counted."""

MAX_TIFF_ENTRIES: Final = 1000
"""Entries of a TIFF's first directory."""

MAX_TIFF_PIECES: Final = 65_536
"""Strips or tiles of a TIFF; one per row of the tallest image in four planes. Pillow makes a Python object of each:
two million of them, in a file of 16 MB, took 4 s and 600 MB."""

TIFF_PIECES: Final = frozenset({273, 279, 324, 325})
"""Tags StripOffsets, StripByteCounts, TileOffsets and TileByteCounts (TIFF 6.0 sections 3 and 15)."""


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """Widths of a TIFF's fields.

    Attributes:
        header: struct format from the version to the offset of the first directory, which is its last item.
        entries: struct format of the number of entries.
        entry: struct format of tag, type and number of values of an entry.
        entry_bytes: Size of an entry.
    """

    header: str
    entries: str
    entry: str
    entry_bytes: int


CLASSIC_TIFF: Final = TiffLayout("HI", "H", "HHI", 12)
"""TIFF 6.0."""

BIG_TIFF: Final = TiffLayout("HHHQ", "Q", "HHQ", 20)
"""BigTIFF, with 64-bit offsets."""

TIFF_LAYOUTS: Final = {
    b"II*\x00": ("<", (CLASSIC_TIFF,)),
    b"MM\x00*": (">", (CLASSIC_TIFF,)),
    # Not valid, and read by Pillow all the same.
    b"II\x00*": ("<", (CLASSIC_TIFF,)),
    b"MM*\x00": (">", (CLASSIC_TIFF,)),
    b"II+\x00": ("<", (BIG_TIFF,)),
    # Pillow 13 takes this one for a classic TIFF.
    b"MM\x00+": (">", (BIG_TIFF, CLASSIC_TIFF)),
}
"""Byte order and layouts by the first four bytes."""


def check_structure(data: bytes) -> None:
    """Refuse a file whose decoding would cost much more than its pixels.

    A file that is damaged in other ways passes: its decoder says so better.

    Raises:
        InvalidImageError: Too many scans, strips, tiles or other parts.
    """
    if data.startswith(JPEG_START):
        _check_parts("JPEG", _jpeg_parts(data))
        # Counted roughly first, which is fast and never too few.
        if data.count(bytes((0xFF, JPEG_SCAN))) > MAX_JPEG_SCANS and count_jpeg_scans(data) > MAX_JPEG_SCANS:
            message = f"the JPEG has more than {MAX_JPEG_SCANS} scans"
            raise InvalidImageError(message)
    elif data.startswith(PNG_START):
        _check_parts("PNG", _png_parts(data))
    elif data.startswith(GIF_STARTS):
        _check_parts("GIF", _gif_parts(data))
    elif data[:4] in TIFF_LAYOUTS and count_tiff_pieces(data) > MAX_TIFF_PIECES:
        message = f"the TIFF has more than {MAX_TIFF_PIECES} strips or tiles"
        raise InvalidImageError(message)


def _check_parts(kind: str, parts: Iterator[int]) -> None:
    if next(islice(parts, MAX_PARTS, None), None) is not None:
        message = f"the {kind} has more than {MAX_PARTS} parts"
        raise InvalidImageError(message)


def _jpeg_parts(data: bytes) -> Iterator[int]:
    """Yield where Pillow stops on its way to the first scan: segments and stray bytes."""
    position = len(JPEG_START)
    while position + 4 <= len(data) and data[position] == 0xFF:
        yield position
        marker = data[position + 1]
        if marker == JPEG_SCAN:
            return
        if marker == 0xFF:
            position += 1
        elif marker == 0x00 or marker in JPEG_WITHOUT_LENGTH:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _png_parts(data: bytes) -> Iterator[int]:
    """Yield where the chunks of a PNG begin."""
    position = len(PNG_START)
    while position + PNG_CHUNK_FRAME <= len(data):
        yield position
        position += PNG_CHUNK_FRAME + int.from_bytes(data[position : position + 4], "big")


def _gif_parts(data: bytes) -> Iterator[int]:
    """Yield where Pillow stops on its way to a GIF's first picture: extensions, their sub-blocks and stray bytes."""
    if len(data) < GIF_HEADER:
        return
    flags = data[10]
    position = GIF_HEADER + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)
    while position < len(data) and data[position] != GIF_IMAGE:
        yield position
        if data[position] != GIF_EXTENSION:
            position += 1
            continue
        position += 2
        while position < len(data) and data[position]:
            yield position
            position += 1 + data[position]
        position += 1


def count_jpeg_scans(data: bytes) -> int:
    """Count a JPEG's scans, at least up to one more than is allowed; a file of very many markers counts as too many."""
    position, scans = 2, 0
    for _ in range(MAX_JPEG_MARKERS):
        match = JPEG_MARKER.search(data, position)
        if match is None or scans > MAX_JPEG_SCANS:
            return scans
        position, marker = match.end(), match[1][0]
        while 0xD0 <= marker <= 0xD7:
            # Restarts may be as many as there are blocks.
            match = JPEG_MARKER.search(data, position)
            if match is None:
                return scans
            position, marker = match.end(), match[1][0]
        scans += marker == JPEG_SCAN
        if marker not in JPEG_WITHOUT_LENGTH and len(data) >= position + 2:
            position += int.from_bytes(data[position : position + 2], "big")
    return MAX_JPEG_SCANS + 1


def count_tiff_pieces(data: bytes) -> int:
    """Return the largest number of strips or tiles that a TIFF's first directory announces."""
    order, layouts = TIFF_LAYOUTS[data[:4]]
    return max(_count_pieces(data, order, layout) for layout in layouts)


def _count_pieces(data: bytes, order: str, layout: TiffLayout) -> int:
    try:
        begin = struct.unpack_from(order + layout.header, data, 2)[-1]
        (count,) = struct.unpack_from(order + layout.entries, data, begin)
        if count > MAX_TIFF_ENTRIES:
            return MAX_TIFF_PIECES + 1
        begin += struct.calcsize(order + layout.entries)
        entries = [
            struct.unpack_from(order + layout.entry, data, begin + index * layout.entry_bytes) for index in range(count)
        ]
    except (struct.error, OverflowError):
        return 0
    return max((values for tag, _, values in entries if tag in TIFF_PIECES), default=0)
