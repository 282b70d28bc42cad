import asyncio
from contextlib import ExitStack

import pytest

from depth_server.admission import MULTIPART_OVERHEAD_BYTES, Admission
from depth_server.errors import OverloadedError, UploadTooLargeError

LIMIT = MULTIPART_OVERHEAD_BYTES


def admission(max_requests: int = 2) -> Admission:
    return Admission(max_requests=max_requests, max_upload_bytes=1000, max_inflight_upload_bytes=1500)


def test_places_are_bounded_and_come_back() -> None:
    gate = admission()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(gate.admit(7))
        with pytest.raises(OverloadedError, match="2 requests") as raised, gate.admit(7):
            pass
        assert raised.value.retry_after_seconds == 7
        assert gate.inflight == 2
    assert gate.inflight == 0
    with gate.admit(7):
        assert gate.inflight == 1


def test_bytes_of_one_upload_are_bounded() -> None:
    gate = admission()
    with gate.admit(1) as permit:
        permit.add_upload_bytes(1000 + LIMIT)
        with pytest.raises(UploadTooLargeError, match="more than 1000 bytes"):
            permit.add_upload_bytes(1)


def test_bytes_of_all_uploads_are_bounded_until_decoded() -> None:
    gate = admission()
    with gate.admit(1) as first, gate.admit(1) as second:
        first.add_upload_bytes(1000 + LIMIT)
        second.add_upload_bytes(500)
        with pytest.raises(OverloadedError, match="memory"):
            second.add_upload_bytes(1)
        first.release_upload_bytes()
        second.add_upload_bytes(1)
    assert gate.upload_bytes == 0


def test_work_units_follow_the_requests() -> None:
    gate = admission()
    with gate.admit(1) as first:
        first.set_work_units(0.1)
        with gate.admit(1) as second:
            second.set_work_units(0.2)
            assert gate.work_units == pytest.approx(0.3)
        assert gate.work_units == pytest.approx(0.1)
    assert gate.work_units == 0.0


async def test_idle_is_told_when_the_last_request_leaves() -> None:
    gate = admission()
    await gate.wait_until_idle()
    with gate.admit(1):
        waiting = asyncio.create_task(gate.wait_until_idle())
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)
