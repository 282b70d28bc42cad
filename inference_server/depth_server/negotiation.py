"""Chooses a representation by the header `Accept` (RFC 9110 section 12.5.1); pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_RANGES: Final = 64
"""Media ranges that are read; browsers send about eight."""


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One element of `Accept`.

    Attributes:
        type: `image`, or `*`.
        subtype: `png`, or `*`.
        quality: 0 to 1; 0 refuses.
    """

    type: str
    subtype: str
    quality: float

    @property
    def specificity(self) -> int:
        """2 for `image/png`, 1 for `image/*`, 0 for `*/*`."""
        return (self.type != "*") + (self.subtype != "*")

    def matches(self, media_type: str) -> bool:
        """Tell whether a media type without parameters is in the range."""
        kind, _, subtype = media_type.partition("/")
        return self.type in ("*", kind) and self.subtype in ("*", subtype)


def parse_accept(header: str) -> list[MediaRange]:
    """Read the header; elements that are malformed are left out, as a recipient may.

    Parameters other than `q` are ignored: none of our representations has any.
    """
    ranges = []
    for element in header.split(",", MAX_RANGES)[:MAX_RANGES]:
        media_range, *parameters = element.split(";")
        kind, slash, subtype = media_range.strip().lower().partition("/")
        if not (slash and kind and subtype) or (kind == "*" and subtype != "*"):
            continue
        quality = _quality(parameters)
        if quality is not None:
            ranges.append(MediaRange(kind, subtype, quality))
    return ranges


def choose_media_type(header: str, offers: Sequence[str]) -> str | None:
    """Choose the best offer.

    Args:
        header: The value of `Accept`; several headers joined by commas. Empty accepts everything.
        offers: Media types in the server's order of preference, which decides between equals.

    Returns:
        None if no offer is acceptable.
    """
    if not header.strip():
        return offers[0]
    ranges = parse_accept(header)
    qualities = [_offered_quality(offer, ranges) for offer in offers]
    best = max(qualities)
    return offers[qualities.index(best)] if best > 0 else None


def _offered_quality(offer: str, ranges: Sequence[MediaRange]) -> float:
    """Quality of the most specific range that an offer is in; 0 if it is in none."""
    matching = [item for item in ranges if item.matches(offer)]
    most = max((item.specificity for item in matching), default=0)
    return max((item.quality for item in matching if item.specificity == most), default=0.0)


def _quality(parameters: Sequence[str]) -> float | None:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() != "q":
            continue
        value = value.strip()
        # `float` also reads `nan`, `1e-3` and `1_0`.
        if len(value) > 5 or not value.replace(".", "", 1).isdecimal() or not value.isascii():
            return None
        quality = float(value)
        return quality if quality <= 1 else None
    return 1.0
