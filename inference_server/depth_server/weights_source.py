"""From the settings to a verified file of weights on this machine: found or downloaded, checked, converted once."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from depth_server.file_lock import locked, replacing
from depth_server.huggingface import DownloadLimits, HubDownload, HubFile, read_token
from depth_server.model.weights_file import verify_weights_file
from depth_server.settings import Settings

logger = logging.getLogger(__name__)

CONVERSION_TIMEOUT_SECONDS: Final = 600.0
"""How long to wait for another process that converts the same file."""

Report = Callable[[str], None]
"""Told what is being done, for people who wait."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """Weights that were verified.

    Attributes:
        path: What to load.
        sha256: Digest of the file that was declared; a conversion of it has another, but the same numbers.
    """

    path: Path
    sha256: str


def obtain_weights(settings: Settings, report: Report) -> WeightsFile:
    """Find or download the weights, verify them, and convert a pickle to safetensors.

    Args:
        settings: Where they are, and which digest is expected.
        report: Told of downloads and conversions.

    Raises:
        StartupError: Every reason that begins with `Weights`, `DigestMismatch`, `DownloadFailed`.
    """
    path = settings.weights or _download(settings, report)
    digest = verify_weights_file(path, settings.weights_sha256, settings.model_family)
    if path.suffix == ".safetensors":
        return WeightsFile(path, digest)
    return WeightsFile(converted(path, digest, settings.cache_folder / "weights", report), digest)


def converted(path: Path, sha256: str, folder: Path, report: Report) -> Path:
    """Give the safetensors of a pickle, written once per digest.

    Tensors are read with `weights_only`, so nothing of the pickle is executed; from then on it is not opened again.

    Args:
        path: A `.pth`.
        sha256: Its digest.
        folder: Cache.
        report: Told if there is something to do.

    Returns:
        The safetensors, or `path` where the cache cannot be written, which is logged.

    Raises:
        StartupError: `WeightsInvalid`.
    """
    target = folder / f"{sha256}.safetensors"
    if target.is_file():
        return target
    try:
        with locked(target, CONVERSION_TIMEOUT_SECONDS):
            if not target.is_file():
                report(f"{path.name} is being converted to safetensors")
                _convert(path, target)
                logger.info("%s was converted to %s", path, target)
    except OSError as error:
        # TimeoutError is one, too. Loading a pickle is slower, not wrong: it is restricted to tensors there as well.
        logger.warning("%s is loaded unconverted at every start: %s: %s", path, folder, error.strerror or error)
        return path
    return target


def _convert(path: Path, target: Path) -> None:
    import safetensors.torch  # noqa: PLC0415 takes seconds, as torch does, and only a pickle needs it

    from depth_server.model.weights import read_state_dict  # noqa: PLC0415 likewise

    state = {key: tensor.contiguous() for key, tensor in read_state_dict(path).items()}
    with replacing(target) as partial:
        safetensors.torch.save_file(state, partial)


def _download(settings: Settings, report: Report) -> Path:
    file = HubFile(
        settings.weights_endpoint, settings.weights_repository, settings.weights_revision, settings.weights_file
    )

    def on_progress(received: int, size: int) -> None:
        message = f"{file.repository}/{file.file}: {received / 1e6:.0f} of {size / 1e6:.0f} MB downloaded"
        logger.info("%s", message)
        report(message)

    download = HubDownload(
        file,
        cache=settings.cache_folder / "downloads",
        token=read_token(settings.weights_token_file) if settings.weights_token_file else "",
        limits=DownloadLimits(
            attempts=settings.download_attempts,
            timeout_seconds=settings.download_timeout_seconds,
            stall_seconds=settings.download_stall_seconds,
            max_bytes=settings.max_weights_bytes,
        ),
        on_progress=on_progress,
    )
    if settings.weights_offline:
        return download.cached()
    return download.fetch(settings.weights_sha256)
