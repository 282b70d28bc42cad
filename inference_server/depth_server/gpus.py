"""Finds the GPUs that this pod may use, without CUDA: a process that has touched CUDA cannot share it with children."""

import logging
from collections.abc import Callable, Mapping

import pynvml  # type: ignore[import-untyped]  # it has no types

logger = logging.getLogger(__name__)

VISIBLE_DEVICES: str = "CUDA_VISIBLE_DEVICES"
"""CUDA's own variable: indices or UUIDs, of which the first invalid one ends the list."""


def visible_gpus(environment: Mapping[str, str], list_gpus: Callable[[], list[str]]) -> list[str]:
    """List what `CUDA_VISIBLE_DEVICES` of one engine process each is to be.

    Args:
        environment: Of this process; where it restricts CUDA to some devices, those are taken.
        list_gpus: Lists the UUIDs of all devices.
    """
    restriction = environment.get(VISIBLE_DEVICES)
    if restriction is None:
        return list_gpus()
    chosen: list[str] = []
    for name in (part.strip() for part in restriction.split(",")):
        if not name or name == "-1":
            break
        chosen.append(name)
    return chosen


def list_gpu_uuids() -> list[str]:
    """Ask NVML for the UUIDs of the GPUs, or of their MIG instances where MIG is on; none if there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.debug("no GPU: %s", error)
        return []
    try:
        uuids: list[str] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuids.extend(_mig_uuids(device) or [str(pynvml.nvmlDeviceGetUUID(device))])
        return uuids
    finally:
        pynvml.nvmlShutdown()


def _mig_uuids(device: object) -> list[str]:
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(device)
    except pynvml.NVMLError:
        return []  # not every GPU knows MIG
    if current != pynvml.NVML_DEVICE_MIG_ENABLE:
        return []
    uuids: list[str] = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        try:
            instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
        except pynvml.NVMLError:
            continue  # a place without an instance
        uuids.append(str(pynvml.nvmlDeviceGetUUID(instance)))
    return uuids
