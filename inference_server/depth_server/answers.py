"""How predictions are told: fields of JSON, headers, members of a batch; pure."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson
import pybase64

from depth_server.errors import DepthServerError, http_error
from depth_server.model.variants import METRES_UNIT, DepthKind, ModelSpec
from depth_server.pipeline import Prediction, StageSeconds
from depth_server.query import ImageOptions
from depth_server.representations import JSON, Representation
from depth_server.request_runner import Answer

FACES_BLURRED_HEADER: Final = "X-Faces-Blurred"
"""Header that tells how many faces were made unrecognisable; sent where they are looked for."""

SERVER_TIMING_HEADER: Final = "Server-Timing"
"""Header with the stages in milliseconds (W3C Server Timing)."""


@dataclass(frozen=True, slots=True)
class DepthMeaning:
    """What the numbers are.

    Attributes:
        model: Name of the model.
        kind: A `DepthKind`.
        unit: `m`, or None where there is none.
    """

    model: str
    kind: str
    unit: str | None

    @classmethod
    def of(cls, spec: ModelSpec, name: str, options: ImageOptions) -> "DepthMeaning":
        """Tell what the numbers are.

        Args:
            spec: The declared model.
            name: Of what runs.
            options: With a focal length, depth is metric.
        """
        if options.focal_length is not None:
            return cls(name, DepthKind.METRIC.value, METRES_UNIT)
        return cls(name, spec.kind.value, spec.unit)


def prediction_fields(prediction: Prediction[bytes], meaning: DepthMeaning) -> dict[str, Any]:
    """Give the members of a prediction in JSON; its rendering is a PNG."""
    fields = {
        "depth_map": pybase64.b64encode_as_string(prediction.rendered),
        "processing_time": prediction.seconds,
        "width": prediction.size.width,
        "height": prediction.size.height,
        "min": prediction.minimum,
        "max": prediction.maximum,
        "kind": meaning.kind,
        "unit": meaning.unit,
        "model": meaning.model,
        "timings": asdict(prediction.stages),
    }
    if prediction.faces_blurred is not None:
        fields["faces_blurred"] = prediction.faces_blurred
    return fields


def prediction_headers(prediction: Prediction[bytes], meaning: DepthMeaning) -> dict[str, str]:
    """Give the same as headers, for every representation."""
    headers = {
        "X-Depth-Min": repr(prediction.minimum),
        "X-Depth-Max": repr(prediction.maximum),
        "X-Depth-Kind": meaning.kind,
        "X-Depth-Model": meaning.model,
        "X-Depth-Width": str(prediction.size.width),
        "X-Depth-Height": str(prediction.size.height),
        SERVER_TIMING_HEADER: server_timing(prediction.stages, prediction.seconds),
        "Vary": "Accept",
    }
    if meaning.unit is not None:
        headers["X-Depth-Unit"] = meaning.unit
    if prediction.faces_blurred is not None:
        headers[FACES_BLURRED_HEADER] = str(prediction.faces_blurred)
    return headers


def prediction_answer(prediction: Prediction[bytes], representation: Representation, meaning: DepthMeaning) -> Answer:
    """Answer one image."""
    headers = prediction_headers(prediction, meaning)
    if representation.media_type == JSON:
        return Answer(orjson.dumps(prediction_fields(prediction, meaning)), headers)
    return Answer(prediction.rendered, headers, representation.media_type)


def problem_fields(error: DepthServerError) -> dict[str, Any]:
    """Give the members of a problem document (RFC 9457)."""
    row = http_error(type(error))
    return {"type": row.type, "title": row.title, "status": row.status, "detail": str(error)}


def server_timing(stages: StageSeconds, total: float) -> str:
    """Write the stages as the value of `Server-Timing`, in milliseconds."""
    timings = {**asdict(stages), "total": total}
    return ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in timings.items())
