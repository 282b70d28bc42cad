"""Metres from the output of families that need the camera's focal length; pure."""

from depth_server.model.variants import ModelSpec


def metres_per_value(spec: ModelSpec, focal_pixels: float, source_width: int, input_width: int) -> float | None:
    """Compute the factor from the network's output to metres.

    Depth Anything 3's metric model gives depth as a camera of 300 pixels focal length would see it (README, "Monocular
    Metric Depth"; `utils/alignment.py`, `apply_metric_scaling`). The focal length counts in pixels of the network's
    input, so it shrinks with the image.

    Args:
        spec: The model.
        focal_pixels: Focal length in pixels of the source image, the mean of both axes; positive.
        source_width: Width of the source image.
        input_width: Width of the network's input.

    Returns:
        The factor; None if the family needs no focal length or gives no metres at all.
    """
    divisor = spec.traits.focal_divisor
    return None if divisor is None else focal_pixels * input_width / source_width / divisor
