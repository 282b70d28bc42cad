"""Which engine runs where, decided without touching CUDA."""

from pathlib import Path

import pytest

from depth_server.batch_queue import BatchPolicy
from depth_server.engine import DepthModel
from depth_server.engine_choice import batch_policy, choose_engine, pixels_bytes, process_environments, warm_up_sizes
from depth_server.engine_handle import EngineProcessSpec
from depth_server.engine_pool import EnginePool
from depth_server.gpus import visible_gpus
from depth_server.health import Health
from depth_server.preprocess import Size
from depth_server.settings import Device, Settings
from depth_server.thread_engine import ThreadEngine

GPUS = ["GPU-1", "GPU-2"]


def configured(**settings: object) -> Settings:
    return Settings(weights=Path("unused.safetensors"), **settings)  # type: ignore[arg-type]  # names of settings


def environments(
    gpus: list[str], environment: dict[str, str] | None = None, **settings: object
) -> list[dict[str, str]]:
    return process_environments(configured(**settings), environment or {}, lambda: gpus)


def test_every_visible_gpu_gets_a_process_and_a_cpu_none() -> None:
    assert environments(GPUS) == [{"CUDA_VISIBLE_DEVICES": "GPU-1"}, {"CUDA_VISIBLE_DEVICES": "GPU-2"}]
    assert environments([]) == []
    assert environments(GPUS, device=Device.CPU) == []


def test_processes_may_be_asked_for() -> None:
    assert environments([], engine_processes=2) == [{}, {}]
    assert environments(GPUS, engine_processes=1) == [{"CUDA_VISIBLE_DEVICES": "GPU-1"}]
    names = [environment["CUDA_VISIBLE_DEVICES"] for environment in environments(GPUS, engine_processes=3)]
    assert names == ["GPU-1", "GPU-2", "GPU-1"]


def test_cuda_that_nvml_does_not_see_is_tried_in_a_process_of_its_own() -> None:
    assert environments([], device=Device.CUDA) == [{}]


@pytest.mark.parametrize(
    ("restriction", "expected"),
    [("1", ["1"]), ("0, 1", ["0", "1"]), ("MIG-a,MIG-b", ["MIG-a", "MIG-b"]), ("", []), ("-1", []), ("0,-1,2", ["0"])],
)
def test_a_restriction_of_cuda_is_kept(restriction: str, expected: list[str]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": restriction}, lambda: GPUS) == expected


def no_model(*_: object) -> DepthModel:
    raise AssertionError("nothing is loaded before the start")


def test_the_kind_of_engine_follows() -> None:
    inside = choose_engine(configured(), Health(), {}, no_model, list)
    assert isinstance(inside, ThreadEngine)
    pool = choose_engine(configured(), Health(), {}, no_model, lambda: GPUS)
    assert isinstance(pool, EnginePool)
    assert pool.replicas == 2
    pool.close("not needed")


def test_the_memory_holds_the_images_in_work_and_at_least_the_largest() -> None:
    assert pixels_bytes(configured()) >= 128 * 518 * 518 * 12
    large = configured(input_size=1022, max_long_side=4088, max_queued_work_units=4)
    assert pixels_bytes(large) >= 4088 * 4088 * 12


def test_common_aspect_ratios_are_measured_first() -> None:
    sizes = warm_up_sizes(518, 1022)
    assert sizes[:4] == (Size(518, 518), Size(518, 686), Size(686, 518), Size(518, 784))
    assert len(sizes) == len(set(sizes)) == 31


def test_measuring_can_be_switched_off() -> None:
    assert batch_policy(configured(calibration_seconds=0)).warm_up_sizes == ()


def test_the_wait_before_a_restart_doubles_up_to_a_bound() -> None:
    spec = EngineProcessSpec(environments=(), policy=BatchPolicy(), pixels_bytes=1, restart_seconds=2)
    assert [spec.backoff_seconds(restarts) for restarts in (0, 1, 2, 10)] == [2, 4, 8, 60]
