"""Requests generated from the OpenAPI document, valid and not: no answer is a 5xx, and every answer is documented."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from depth_server.health import HealthState
from tests.unit.depth_server.api_server import encoded, gradient, make_app, wait_until

EXAMPLES = 25
"""Requests per endpoint: half a minute in all."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The application on a socket of its own, in a thread."""
    app, health = make_app(max_batch_images=2)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        asyncio.run(wait_until(lambda: server.started and health.report.state is HealthState.READY))
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


PICTURES = st.sampled_from([encoded(gradient(), kind) for kind in ("PNG", "JPEG", "GIF")]) | st.binary(max_size=200)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


def test_no_request_breaks_the_server(url: str) -> None:
    schemathesis.openapi.media_type("image/*", PICTURES)
    schemathesis.openapi.media_type("application/octet-stream", PICTURES)
    schema = schemathesis.openapi.from_dict(httpx.get(url + "/openapi.json").json())
    statuses: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        seen = statuses.setdefault(operation.label, set())
        # With schemathesis' own pytest marks, pytest 9.2 fails; hypothesis alone needs none.
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _send_examples(operation, mode, url, seen)
    assert len(statuses) == 12
    assert 200 in statuses["POST /predict"]
    assert 422 in statuses["POST /predict"]


def _send_examples(operation: Any, mode: GenerationMode, url: str, seen: set[int]) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        # A client that waits for a millisecond is told that it was too short, by 504.
        case.headers.pop("X-Request-Timeout-Ms", None)
        response = case.call(base_url=url, timeout=30)
        seen.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    try:
        send()
    except Unsatisfiable:
        # An endpoint without parameters has no wrong request.
        assert mode is GenerationMode.NEGATIVE
