"""The pages of the reference name every setting and every kind of error, with their defaults and statuses."""

import re
from pathlib import Path

from depth_server.errors import CLIENT_CLOSED_REQUEST, HTTP_ERRORS, StartupReason
from depth_server.settings import Settings

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"
API_PAGE = (REFERENCE / "http-api.md").read_text()
SETTINGS_PAGE = (REFERENCE / "server-settings.md").read_text()


def test_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.+?) \|", SETTINGS_PAGE, re.MULTILINE))
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        shown = rows[name.upper()].strip("`")
        if isinstance(field.default, bool):
            assert shown == str(field.default).lower(), name
        elif isinstance(field.default, int | float):
            assert float(shown) == field.default, name
        elif field.default_factory is None:
            assert shown == (str(field.default) if field.default else "empty"), name


def test_every_kind_of_error_with_its_status() -> None:
    rows = set(re.findall(r"^\| (\d{3}) \| `([a-z-]+)` \|", API_PAGE, re.MULTILINE))
    assert rows == {(str(row.status), row.slug) for row in HTTP_ERRORS.values() if row.status != CLIENT_CLOSED_REQUEST}


def test_every_reason_not_to_start() -> None:
    assert {str(reason) for reason in StartupReason} <= set(re.findall(r"^\| `([A-Za-z]+)` \|", API_PAGE, re.MULTILINE))
