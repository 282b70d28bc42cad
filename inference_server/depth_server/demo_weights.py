"""The weights that come with the package, for demonstrations; `training/demo_weights` says what they are."""

from importlib import resources
from pathlib import Path
from typing import Final

DEMO_WEIGHTS_FILE: Final = "depth_anything_demo_vitt14.safetensors"
"""DepthAnythingV2, ViTT14."""


def copy_demo_weights(out: Path) -> None:
    """Write the bundled weights to `out`, or into it if it is a folder.

    Raises:
        OSError: It cannot be written.
    """
    target = out / DEMO_WEIGHTS_FILE if out.is_dir() else out
    source = resources.files("depth_server").joinpath("weights", DEMO_WEIGHTS_FILE)
    # Whoever reads the target meanwhile sees the old file or the new one.
    partial = target.with_name(f".{target.name}.partial")
    partial.write_bytes(source.read_bytes())
    partial.replace(target)
