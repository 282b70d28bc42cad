"""Parameters are honoured or refused by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_server.errors import InvalidParameterError
from depth_server.postprocess import Upsampling
from depth_server.query import ImageOptions, PredictOptions, parse_image_options, parse_predict_query
from depth_server.representations import Colormap

MAX_SIZE = 1022


def test_nothing_asked_for() -> None:
    assert parse_predict_query([], MAX_SIZE) == PredictOptions()


def test_everything_asked_for() -> None:
    given = [("size", "266"), ("exact", "true"), ("upsample", "nearest"), ("colormap", "turbo")]
    expected = PredictOptions(ImageOptions(266, exact=True, upsampling=Upsampling.NEAREST), Colormap.TURBO)
    assert parse_predict_query(given, MAX_SIZE) == expected


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([("sise", "266")], "'sise' is unknown; known are size, exact, upsample, focal_length, colormap"),
        ([("size", "266"), ("size", "266")], "'size' is given more than once"),
        ([("size", "267")], "'size' is '267', expected a multiple of 14 from 126 to 1022"),
        ([("size", "112")], "'size'"),
        ([("size", "1036")], "'size'"),
        ([("size", "-126")], "'size'"),
        ([("size", "")], "'size'"),
        ([("size", "1_26")], "'size'"),
        ([("size", "٢٦٦")], "'size'"),
        ([("exact", "1")], "'exact' is '1', expected true or false"),
        ([("focal_length", "0")], "'focal_length' is '0', expected pixels from 1 to 1e\\+06"),
        ([("focal_length", "nan")], "'focal_length'"),
        ([("focal_length", "1e3")], "'focal_length'"),
        ([("upsample", "cubic")], "'upsample' is 'cubic', expected one of bilinear, nearest"),
        ([("colormap", "rainbow")], "'colormap' is 'rainbow', expected one of inferno, magma"),
    ],
)
def test_refusals(parameters: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        parse_predict_query(parameters, MAX_SIZE)


def test_values_of_json() -> None:
    assert parse_image_options({"size": 140, "exact": True}, MAX_SIZE) == ImageOptions(140, exact=True)
    for wrong in ({"size": True}, {"size": 140.0}, {"exact": 1}, {"upsample": None}, {"size": [140]}):
        with pytest.raises(InvalidParameterError):
            parse_image_options(wrong, MAX_SIZE)


@given(st.lists(st.tuples(st.sampled_from(["size", "exact", "upsample", "colormap", "x"]), st.text(max_size=9))))
def test_any_query_is_understood_or_refused(parameters: list[tuple[str, str]]) -> None:
    try:
        options = parse_predict_query(parameters, MAX_SIZE)
    except InvalidParameterError as error:
        assert len(str(error)) < 300  # noqa: PT017 either outcome is right
    else:
        assert options.image.size is None or options.image.size % 14 == 0
