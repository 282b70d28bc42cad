"""A Kubernetes operator that turns a DepthService into a depth estimation endpoint."""

from typing import Final

__version__: Final = "0.1.0"
"""Version of the distribution; a test compares it with pyproject.toml."""
