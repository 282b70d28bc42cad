"""Settings of the HTTP API: what one call may carry.

A base class of `settings.Settings`, so that they are read, checked and reported together with the rest.
"""

from pydantic import Field
from pydantic_settings import BaseSettings


class ApiSettings(BaseSettings):
    """Bounds of calls with several images, and the pages for people."""

    max_batch_images: int = Field(default=16, ge=1, le=256)
    """Images of one call to `/predict/batch` or of one inference request; more are refused with 400."""
    max_batch_bytes: int = Field(default=64 * 1024**2, ge=1)
    """Bytes of the body of such a call; at most `max_inflight_upload_bytes` counts."""
    swagger_page: bool = True
    """Whether `/docs` shows the API; its scripts come from this server."""
