"""`/docs`: the API for people. Swagger UI comes from the installed distribution `fastapi-offline`, never from a CDN.

The page is ours: it has no inline script, so that a strict Content-Security-Policy holds, and its addresses are
relative, so that it works behind a gateway that puts a prefix before the path.
"""

import importlib.util
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response

from depth_server.routes.services import Services

logger = logging.getLogger(__name__)

ASSETS_PACKAGE: Final = "fastapi_offline"
"""Package that carries the files of Swagger UI (Apache-2.0) in its folder `static`."""

ASSETS: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
"""Files that are served, with their types."""

CACHE_SECONDS: Final = 3600
"""How long browsers keep them."""

PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Swagger UI sets styles on elements and shows pictures of answers as blobs."""

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Depth Serving</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

START_SCRIPT: Final = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null
});
"""
"""`validatorUrl: null` keeps the page from asking another host."""


def add_routes(router: APIRouter, services: Services) -> None:
    """Add the page, unless it is switched off or its files are not installed."""
    if not services.settings.swagger_page:
        return
    folder = find_assets()
    if folder is None:
        logger.warning("there is no page at /docs: the distribution fastapi-offline is not installed")
        return
    files = {name: ((folder / name).read_bytes(), media_type) for name, media_type in ASSETS.items()}
    files["start.js"] = (START_SCRIPT.encode(), "text/javascript")

    @router.get("/docs", include_in_schema=False)
    async def page() -> Response:
        return Response(PAGE, headers={"Content-Security-Policy": PAGE_POLICY}, media_type="text/html")

    for name, (content, media_type) in files.items():
        router.add_api_route(f"/docs/{name}", _file_endpoint(content, media_type), include_in_schema=False)


def find_assets() -> Path | None:
    """Find the installed files of Swagger UI, without importing the package around them."""
    found = importlib.util.find_spec(ASSETS_PACKAGE)
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "static"
    return folder if all((folder / name).is_file() for name in ASSETS) else None


def _file_endpoint(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def asset() -> Response:
        return Response(content, headers={"Cache-Control": f"max-age={CACHE_SECONDS}"}, media_type=media_type)

    return asset
