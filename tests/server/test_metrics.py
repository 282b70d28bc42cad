"""The names in `docs/reference/contract.md`, compared with what a server really exposes."""

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.conftest import ServerProcess
from tests.unit.depth_server.hostile_images import encoded, photo

pytestmark = pytest.mark.server

CONTRACT = Path(__file__).parents[2] / "docs" / "reference" / "contract.md"
GPU_ONLY = {"depth_server_gpu_busy_seconds_total"}
FACES_ONLY = {"depth_server_face_detection_duration_seconds", "depth_server_faces_blurred_total"}


def contract_metrics() -> dict[str, str]:
    """Type of every metric in the contract's table."""
    rows = re.findall(r"^\|([^|]*`depth_server_[^|]*)\|([^|]*)\|", CONTRACT.read_text(), re.MULTILINE)
    return {
        name: kind.split(",")[0].strip() for cell, kind in rows for name in re.findall(r"`(depth_server_\w+)", cell)
    }


def test_metrics_are_the_contracts(server: ServerProcess) -> None:
    httpx.post(server.url + "/predict", files={"file": encoded(photo(), "PNG")}, timeout=60).raise_for_status()
    response = httpx.get(server.url + "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(response.text))
    exposed = {family.name + ("_total" if family.type == "counter" else ""): family.type for family in families}
    expected = {name: kind for name, kind in contract_metrics().items() if name not in GPU_ONLY | FACES_ONLY}
    assert len(expected) >= 12
    assert exposed == expected


def test_outcomes_buckets_and_info(server: ServerProcess) -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(httpx.get(server.url + "/metrics").text)
    }
    outcomes = {sample.labels["outcome"] for sample in families["depth_server_requests"].samples}
    assert outcomes == {"success", "rejected", "unavailable", "failed", "abandoned", "invalid"}
    bounds = {
        float(sample.labels["le"])
        for sample in families["depth_server_request_duration_seconds"].samples
        if sample.name.endswith("_bucket")
    }
    assert min(bounds) == 0.005
    assert 60.0 in bounds
    (info,) = families["depth_server_info"].samples
    assert info.value == 1
    assert info.labels["model"] == "depth_anything_v2_vits14"
    assert (info.labels["device"], info.labels["precision"]) == ("cpu", "FP32")
    assert info.labels["version"]


def test_busy_time_and_images_grow_with_work(server: ServerProcess) -> None:
    def read() -> dict[str, float]:
        text = httpx.get(server.url + "/metrics").text
        return {
            s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples if not s.labels
        }

    before = read()
    httpx.post(server.url + "/predict", files={"file": encoded(photo(), "PNG")}, timeout=60).raise_for_status()
    after = read()
    assert after["depth_server_images_total"] == before["depth_server_images_total"] + 1
    assert after["depth_server_worker_busy_seconds_total"] > before["depth_server_worker_busy_seconds_total"]
    assert after["depth_server_inflight_requests"] == after["depth_server_work_units_in_flight"] == 0
