"""Version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

DISTRIBUTION: Final = "depth-serving"
"""Name of the Python distribution that this package is part of."""

UNINSTALLED_VERSION: Final = "0.0.0+checkout"
"""What a checkout calls itself that was never installed."""


def server_version() -> str:
    """Return the distribution's version."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return UNINSTALLED_VERSION
