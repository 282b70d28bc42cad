"""Query parameters: each one known and right, or the request is refused; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, TypeVar

from depth_server.errors import InvalidParameterError
from depth_server.model.variants import PATCH_SIZE
from depth_server.postprocess import Upsampling
from depth_server.representations import Colormap
from depth_server.settings import MIN_INPUT_SIZE

Choice = TypeVar("Choice", bound=StrEnum)

BOOLEANS: Final = {"true": True, "false": False}
"""Spellings of a boolean in a query."""

MIN_FOCAL_LENGTH: Final = 1.0
"""Pixels: a field of view of nearly 180 degrees in the smallest image."""

MAX_FOCAL_LENGTH: Final = 1e6
"""Pixels: a telescope."""

MAX_ECHO: Final = 40
"""Characters of a wrong value that are repeated in the message."""


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How depth of an image is computed.

    Attributes:
        size: Shorter side of the network's input in pixels; None is the server's.
        exact: Whether the input has upstream's size and resampling, not those of the nearest bucket.
        upsampling: How depth is brought to the size of the image.
        focal_length: Of the camera in pixels of the image, for models that need it to give metres.
    """

    size: int | None = None
    exact: bool = False
    upsampling: Upsampling = Upsampling.BILINEAR
    focal_length: float | None = None


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """The query of `/predict`.

    Attributes:
        image: How depth is computed.
        colormap: Colours for a picture to look at; None asks for depth itself.
    """

    image: ImageOptions = ImageOptions()
    colormap: Colormap | None = None


def parse_predict_query(parameters: Sequence[tuple[str, str]], max_size: int) -> PredictOptions:
    """Read the query of `/predict`.

    Args:
        parameters: Names and values, decoded, in their order.
        max_size: Largest `size`.

    Raises:
        InvalidParameterError: Names the parameter that is unknown, repeated or wrong.
    """
    given = unique_parameters(parameters, (*IMAGE_PARAMETERS, "colormap"))
    colormap = given.pop("colormap", None)
    return PredictOptions(
        parse_image_options(given, max_size), None if colormap is None else _choice("colormap", colormap, Colormap)
    )


def parse_image_query(parameters: Sequence[tuple[str, str]], max_size: int) -> ImageOptions:
    """Read a query that has no colours.

    Raises:
        InvalidParameterError: Names the parameter that is unknown, repeated or wrong.
    """
    return parse_image_options(unique_parameters(parameters, tuple(IMAGE_PARAMETERS)), max_size)


def parse_image_options(given: Mapping[str, object], max_size: int) -> ImageOptions:
    """Read options, from a query or from the parameters of an inference request.

    Args:
        given: Known names only; values are text, or of JSON's types.
        max_size: Largest `size`.

    Raises:
        InvalidParameterError: A value is wrong.
    """
    options = ImageOptions()
    for name, value in given.items():
        options = IMAGE_PARAMETERS[name](options, value, max_size)
    return options


def unique_parameters(parameters: Sequence[tuple[str, str]], known: Sequence[str]) -> dict[str, str]:
    """Refuse what is unknown or given twice.

    Raises:
        InvalidParameterError: With the name, and those that are known.
    """
    given: dict[str, str] = {}
    for name, value in parameters:
        check_known(name, known)
        if name in given:
            message = f"the parameter {name!r} is given more than once"
            raise InvalidParameterError(message)
        given[name] = value
    return given


def check_known(name: str, known: Sequence[str]) -> None:
    """Refuse an unknown name.

    Raises:
        InvalidParameterError: With the names that are known.
    """
    if name not in known:
        choice = f"known are {', '.join(known)}" if known else "there are none here"
        message = f"the parameter {name[:MAX_ECHO]!r} is unknown; {choice}"
        raise InvalidParameterError(message)


def _with_size(options: ImageOptions, value: object, max_size: int) -> ImageOptions:
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    size = int(text) if text.isascii() and text.isdecimal() and len(text) <= 6 else 0
    if size % PATCH_SIZE or not MIN_INPUT_SIZE <= size <= max_size:
        wanted = f"a multiple of {PATCH_SIZE} from {MIN_INPUT_SIZE} to {max_size}"
        raise _wrong("size", value, wanted)
    return replace(options, size=size)


def _with_exact(options: ImageOptions, value: object, _: int) -> ImageOptions:
    exact = BOOLEANS.get(value) if isinstance(value, str) else value
    if not isinstance(exact, bool):
        raise _wrong("exact", value, "true or false")
    return replace(options, exact=exact)


def _with_upsampling(options: ImageOptions, value: object, _: int) -> ImageOptions:
    return replace(options, upsampling=_choice("upsample", value, Upsampling))


def _with_focal_length(options: ImageOptions, value: object, _: int) -> ImageOptions:
    text = str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    digits = text.replace(".", "", 1)
    length = float(text) if digits.isascii() and digits.isdecimal() and len(text) <= 32 else 0.0
    if not MIN_FOCAL_LENGTH <= length <= MAX_FOCAL_LENGTH:
        wanted = f"pixels from {MIN_FOCAL_LENGTH:g} to {MAX_FOCAL_LENGTH:g}"
        raise _wrong("focal_length", value, wanted)
    return replace(options, focal_length=length)


def _choice(name: str, value: object, choices: type[Choice]) -> Choice:
    found = next((choice for choice in choices if choice == value), None)
    if found is None:
        raise _wrong(name, value, f"one of {', '.join(choices)}")
    return found


def _wrong(name: str, value: object, wanted: str) -> InvalidParameterError:
    return InvalidParameterError(f"the parameter {name!r} is {str(value)[:MAX_ECHO]!r}, expected {wanted}")


IMAGE_PARAMETERS: Final[dict[str, Callable[[ImageOptions, object, int], ImageOptions]]] = {
    "size": _with_size,
    "exact": _with_exact,
    "upsample": _with_upsampling,
    "focal_length": _with_focal_length,
}
"""How each parameter changes the options."""


def image_parameters_schema(max_size: int) -> list[dict[str, Any]]:
    """Describe the parameters of an image for OpenAPI."""
    size = {"type": "integer", "minimum": MIN_INPUT_SIZE, "maximum": max_size, "multipleOf": PATCH_SIZE}
    return [
        _parameter("size", "Shorter side of the network's input in pixels; the server's setting if not given.", size),
        _parameter(
            "exact",
            "Upstream's input size and resampling, in the place of the nearest size that others share batches with.",
            {"type": "boolean", "default": False},
        ),
        _parameter(
            "upsample",
            "How depth is brought to the size of the image; nearest invents no depth at edges, as point clouds need.",
            {"type": "string", "enum": list(Upsampling), "default": Upsampling.BILINEAR},
        ),
        _parameter(
            "focal_length",
            "Of the camera in pixels of the image: makes depth metric. Only for models that need it, else refused.",
            {"type": "number", "minimum": MIN_FOCAL_LENGTH, "maximum": MAX_FOCAL_LENGTH},
        ),
    ]


def predict_parameters_schema(max_size: int) -> list[dict[str, Any]]:
    """Describe the query of `/predict` for OpenAPI."""
    colormap = {"type": "string", "enum": list(Colormap)}
    text = "Answer with a picture in these colours, bright where it is near: image/png, or image/jpeg by Accept."
    return [*image_parameters_schema(max_size), _parameter("colormap", text, colormap)]


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}
