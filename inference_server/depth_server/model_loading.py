"""From the settings to a verified model: licence, weights, backend, golden images."""

from collections.abc import Callable

from depth_server.engine import DepthModel
from depth_server.licences import check_license
from depth_server.model.variants import model_spec
from depth_server.settings import Settings
from depth_server.weights_source import obtain_weights


def load_model(settings: Settings, report: Callable[[str], None] = lambda _: None) -> DepthModel:
    """Load the declared model; takes seconds to minutes.

    Args:
        settings: What to load.
        report: Told what is being done, for people who wait.

    Raises:
        StartupError: Any reason of the contract.
    """
    spec = model_spec(settings.model_family, settings.model_variant)
    check_license(spec, settings.license_accepted)
    weights = obtain_weights(settings, report)
    report("the weights are being loaded")
    from depth_server.torch_model import load_torch_model  # noqa: PLC0415 takes seconds, while probes are answered

    return load_torch_model(settings, weights.path)
