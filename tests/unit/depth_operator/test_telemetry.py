"""Log lines that a person and a program can read."""

from __future__ import annotations

import json
import logging
import sys

from depth_operator.telemetry import JsonFormatter


def test_a_line_is_one_json_object_that_says_what_it_is_about() -> None:
    record = logging.LogRecord("depth_operator.children", logging.INFO, "", 0, "applied %s", ("Service",), None)
    record.key, record.action, record.unknown = "default/depth", "applied", "not written"
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed = json.loads(line)
    assert list(parsed) == ["time", "level", "logger", "message", "key", "action"]
    assert parsed["message"] == "applied Service"
    assert parsed["time"].endswith("Z")


def test_an_exception_stays_on_the_line() -> None:
    try:
        int("no number")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "broke", (), sys.exc_info())
    parsed = json.loads(JsonFormatter().format(record))
    assert "ValueError: invalid literal" in parsed["exception"]
