from pathlib import Path

import pytest

from depth_server.errors import StartupError, StartupReason
from depth_server.settings import Device, Precision, load_settings, unknown_variables


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("DEPTH_SERVER_WEIGHTS", "/weights/model.safetensors")
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_defaults_are_the_contracts() -> None:
    settings = load_settings()
    assert settings.weights == Path("/weights/model.safetensors")
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.model_family, settings.model_variant) == ("DepthAnything", "ViTL14")
    assert (settings.device, settings.precision) == (Device.AUTO, Precision.FP32)
    assert (settings.input_size, settings.max_queued_requests, settings.cpu_threads) == (518, 64, 0)
    assert settings.weights_sha256 == ""
    assert settings.termination_message_path == Path("/dev/termination-log")


def refusal(environment: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        environment.setenv(f"DEPTH_SERVER_{name}", value)
    with pytest.raises(StartupError) as raised:
        load_settings()
    assert raised.value.reason is StartupReason.INVALID_SETTINGS
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("INPUT_SIZE", "500", "DEPTH_SERVER_INPUT_SIZE=500: input should be a multiple of 14"),
        ("INPUT_SIZE", "112", "DEPTH_SERVER_INPUT_SIZE=112: input should be greater than or equal to 126"),
        ("INPUT_SIZE", "1036", "DEPTH_SERVER_INPUT_SIZE=1036: input should be less than or equal to 1022"),
        (
            "MODEL_VARIANT",
            "vits",
            "DEPTH_SERVER_MODEL_VARIANT=vits: input should be 'ViTT14', 'ViTS14', 'ViTB14' or 'ViTL14'",
        ),
        ("MODEL_FAMILY", "V3", "DEPTH_SERVER_MODEL_FAMILY=V3"),
        ("DEVICE", "gpu", "DEPTH_SERVER_DEVICE=gpu"),
        ("PORT", "70000", "DEPTH_SERVER_PORT=70000"),
        ("WEIGHTS_SHA256", "abc", "DEPTH_SERVER_WEIGHTS_SHA256=abc"),
        ("MAX_QUEUED_REQUESTS", "0", "DEPTH_SERVER_MAX_QUEUED_REQUESTS=0"),
        ("MAX_LONG_SIDE", "504", "DEPTH_SERVER_MAX_LONG_SIDE=504 is below DEPTH_SERVER_INPUT_SIZE=518"),
        ("MAX_UPLOAD_BYTES", "999999999", "the largest upload could never be accepted"),
    ],
)
def test_wrong_value_is_refused_by_name(environment: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    assert message in refusal(environment, **{name: value})


def test_every_wrong_value_is_named(environment: pytest.MonkeyPatch) -> None:
    message = refusal(environment, PORT="-1", INPUT_SIZE="1")
    assert "DEPTH_SERVER_PORT" in message
    assert "DEPTH_SERVER_INPUT_SIZE" in message


def test_weights_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPTH_SERVER_WEIGHTS", raising=False)
    missing = "DEPTH_SERVER_WEIGHTS is not set, nor is DEPTH_SERVER_WEIGHTS_REPOSITORY"
    assert refusal(monkeypatch) == missing
    assert refusal(monkeypatch, WEIGHTS="") == missing


def test_fp16_on_the_cpu_is_refused_with_a_remedy(environment: pytest.MonkeyPatch) -> None:
    assert "use FP32 or BF16" in refusal(environment, DEVICE="cpu", PRECISION="FP16")


def test_digest_may_have_upper_case(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DEPTH_SERVER_WEIGHTS_SHA256", "A" * 64)
    assert load_settings().weights_sha256 == "a" * 64


def test_misspelt_variables_are_found_and_service_links_are_not() -> None:
    environment = {
        "DEPTH_SERVER_INPUTSIZE": "518",
        "DEPTH_SERVER_INPUT_SIZE": "518",
        "DEPTH_SERVER_SERVICE_HOST": "10.96.0.7",
        "DEPTH_SERVER_PORT_8000_TCP": "tcp://10.96.0.7:8000",
        "PATH": "",
    }
    assert unknown_variables(environment) == ["DEPTH_SERVER_INPUTSIZE"]
