"""The choice by the header `Accept` (RFC 9110 section 12.5.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.errors import NotAcceptableError
from depth_server.negotiation import choose_media_type, parse_accept
from depth_server.representations import COLOUR_MEDIA_TYPES, DEPTH_MEDIA_TYPES, Colormap, choose_representation

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        (BROWSER, "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/png"),
        ("image/png;q=0.5, image/tiff", "image/tiff"),
        ("image/png;q=0.5, image/tiff;q=0.5", "image/png"),
        ("*/*, application/json;q=0", "image/png"),
        ("image/*;q=0.8, image/png;q=0.1, application/x-npy;q=0.5", "image/tiff"),
        ("application/json;charset=utf-8", "application/json"),
        ("application/x-npy ; q=1.000 ,text/plain", "application/x-npy"),
        ("image/png;q=2, image/tiff;q=0.1", "image/tiff"),
        ("image/png;q=nan, */*;q=0.1", "application/json"),
        ("text/html", None),
        ("image/png;q=0", None),
        ("nonsense", None),
        ("*/png", None),
    ],
)
def test_choice(accept: str, chosen: str | None) -> None:
    assert choose_media_type(accept, DEPTH_MEDIA_TYPES) == chosen


@given(st.text(max_size=200))
def test_any_header_is_understood_or_refused(accept: str) -> None:
    assert choose_media_type(accept, DEPTH_MEDIA_TYPES) in (*DEPTH_MEDIA_TYPES, None)


@given(st.permutations(["image/png;q=0.3", "image/tiff;q=0.7", "application/x-npy;q=0.5", "*/*;q=0.1"]))
def test_order_of_the_header_does_not_matter(elements: list[str]) -> None:
    assert choose_media_type(",".join(elements), DEPTH_MEDIA_TYPES) == "image/tiff"


def test_elements_are_bounded() -> None:
    assert len(parse_accept("image/png," * 10_000)) == 64


@pytest.mark.parametrize(("accept", "chosen"), [("", "image/png"), ("*/*", "image/png"), ("image/jpeg", "image/jpeg")])
def test_colours_are_pictures(accept: str, chosen: str) -> None:
    assert choose_representation(accept, Colormap.TURBO).media_type == chosen
    assert chosen in COLOUR_MEDIA_TYPES


def test_refusal_names_what_there_is() -> None:
    with pytest.raises(NotAcceptableError, match=r"application/json, image/png, image/tiff, application/x-npy$"):
        choose_representation("text/html", None)
    with pytest.raises(NotAcceptableError, match="image/jpeg needs the parameter colormap"):
        choose_representation("image/jpeg", None)
    with pytest.raises(NotAcceptableError, match=r"with colormap=magma: image/png, image/jpeg$"):
        choose_representation("application/json", Colormap.MAGMA)
