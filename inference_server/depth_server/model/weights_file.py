"""Checks of a weights file that need no torch, so that a wrong path or digest is told within a second."""

import hashlib
import logging
from pathlib import Path
from typing import Final

from depth_server.errors import StartupError, StartupReason
from depth_server.model.variants import ModelFamily

logger = logging.getLogger(__name__)

WEIGHTS_SUFFIXES: Final = (".pth", ".safetensors")
"""Formats that are read: torch pickles restricted to tensors, and safetensors."""


def verify_weights_file(path: Path, sha256: str, family: ModelFamily) -> str:
    """Check that the file exists, has a known format and, if a digest is given, is the expected one.

    Args:
        path: The file.
        sha256: Expected digest, 64 lower-case hex digits, or empty to skip the comparison.
        family: Declared family; a file name that suggests another one is logged as a warning.

    Returns:
        The digest.

    Raises:
        StartupError: `WeightsNotFound`, `WeightsInvalid` or `DigestMismatch`.
    """
    if path.suffix not in WEIGHTS_SUFFIXES:
        message = f"{path}: the name of a weights file ends with {' or '.join(WEIGHTS_SUFFIXES)}"
        raise StartupError(StartupReason.WEIGHTS_INVALID, message)
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise StartupError(StartupReason.WEIGHTS_INVALID, f"{path} is empty")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        message = f"{path} does not exist; mount the weights or correct DEPTH_SERVER_WEIGHTS"
        raise StartupError(StartupReason.WEIGHTS_NOT_FOUND, message) from error
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise StartupError(StartupReason.WEIGHTS_INVALID, message) from error
    if sha256 and digest != sha256:
        message = f"{path} has the sha256 {digest}, expected {sha256}"
        raise StartupError(StartupReason.DIGEST_MISMATCH, message)
    warning = name_warning(path.name, family)
    if warning:
        logger.warning("%s: %s", path, warning)
    return digest


_TELLING_NAMES: Final = (
    ("depth_anything_v2_metric_hypersim", ModelFamily.DEPTH_ANYTHING_V2_METRIC_HYPERSIM),
    ("depth_anything_v2_metric_vkitti", ModelFamily.DEPTH_ANYTHING_V2_METRIC_VKITTI),
    ("depth_anything_v2", ModelFamily.DEPTH_ANYTHING_V2),
    ("depth_anything_vit", ModelFamily.DEPTH_ANYTHING),
    ("da3mono", ModelFamily.DEPTH_ANYTHING_3_MONO),
    ("da3metric", ModelFamily.DEPTH_ANYTHING_3_METRIC),
)
"""Parts of official file and repository names, the longer first, and the family that they tell."""


def name_warning(file_name: str, family: ModelFamily) -> str | None:
    """Compare a file's name with the declared family: files of several families have the same keys.

    Returns:
        What looks wrong, or None.
    """
    lowered = file_name.lower()
    for part, told in _TELLING_NAMES:
        if part in lowered:
            return None if told is family else f"the name says {told}, the declared family is {family}"
    return None
