"""The gate in front of weights whose licence restricts their use; pure."""

from typing import Final

from depth_server.errors import StartupError, StartupReason
from depth_server.model.variants import ModelSpec

UNRESTRICTED_LICENSES: Final = frozenset({"Apache-2.0"})
"""SPDX identifiers of licences that allow commercial use without a further agreement."""


def is_restricted(license_id: str) -> bool:
    """Tell whether the licence has to be accepted by name."""
    return license_id not in UNRESTRICTED_LICENSES


def check_license(spec: ModelSpec, accepted: str) -> None:
    """Refuse restricted weights unless their licence was accepted by its name.

    Args:
        spec: Declared model; the licence is that of its official weights, whatever file is loaded.
        accepted: SPDX identifier, from `DEPTH_SERVER_LICENSE_ACCEPTED`.

    Raises:
        StartupError: `LicenseNotAccepted`.
    """
    license_id = spec.weights_license
    if not is_restricted(license_id) or accepted == license_id:
        return
    found = f"it is {accepted}" if accepted else "it is not set"
    message = (
        f"the weights of {spec.name} are licensed under {license_id}, which restricts their use; if you may use them, "
        f"set DEPTH_SERVER_LICENSE_ACCEPTED={license_id} ({found}), or choose a model under Apache-2.0, "
        "as DepthAnything ViTL14 or DepthAnythingV2 ViTS14"
    )
    raise StartupError(StartupReason.LICENSE_NOT_ACCEPTED, message)
