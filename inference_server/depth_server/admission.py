"""Decides before any work whether a request is taken: bounded in number and in bytes. Used by the event loop only."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from depth_server.errors import ConnectionLimitError, OverloadedError, UploadTooLargeError

MULTIPART_OVERHEAD_BYTES: Final = 16 * 1024
"""What a body may have beyond its file: boundaries and part headers."""


class Permit:
    """One accepted request: what it holds of the bounded resources."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.upload_bytes = 0
        self.work_units = 0.0

    def add_upload_bytes(self, count: int) -> None:
        """Account for bytes that were received.

        Raises:
            UploadTooLargeError: More than one upload may have.
            OverloadedError: More than all uploads together may have.
        """
        self._admission.check_upload_bytes(self.upload_bytes + count)
        if self._admission.upload_bytes + count > self._admission.max_inflight_upload_bytes:
            message = "the uploads that wait to be decoded use all the memory meant for them"
            raise OverloadedError(message)
        self.upload_bytes += count
        self._admission.upload_bytes += count

    def hand_over_upload_bytes(self) -> Callable[[], None]:
        """Keep the bytes accounted for beyond the end of the request, for whoever still holds them.

        Returns:
            Tells that they are gone; to be called once, on the event loop.
        """
        count, self.upload_bytes = self.upload_bytes, 0

        def release() -> None:
            self._admission.upload_bytes -= count

        return release

    def release_upload_bytes(self) -> None:
        """Tell that the bytes of the upload are gone."""
        self._admission.upload_bytes -= self.upload_bytes
        self.upload_bytes = 0

    def set_work_units(self, work_units: float) -> None:
        """Tell what the request costs, once its size is known."""
        self._admission.work_units += work_units - self.work_units
        self.work_units = work_units


class Admission:
    """Counts accepted requests and refuses what does not fit.

    Args:
        max_requests: Requests accepted and not yet answered.
        max_upload_bytes: Bytes of one upload, without the multipart framing.
        max_inflight_upload_bytes: Bytes of all uploads not yet decoded.
    """

    def __init__(self, *, max_requests: int, max_upload_bytes: int, max_inflight_upload_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_upload_bytes = max_upload_bytes
        self.max_inflight_upload_bytes = max_inflight_upload_bytes + MULTIPART_OVERHEAD_BYTES
        self.inflight = 0
        self.upload_bytes = 0
        self.work_units = 0.0
        self.has_free_connection = True
        self._idle = asyncio.Event()
        self._idle.set()

    def check_upload_bytes(self, count: int) -> None:
        """Compare the bytes of a body, announced or received, with the limit.

        Raises:
            UploadTooLargeError: Too many.
        """
        if count > self.max_upload_bytes + MULTIPART_OVERHEAD_BYTES:
            message = f"the upload has more than {self.max_upload_bytes} bytes"
            raise UploadTooLargeError(message)

    @contextlib.contextmanager
    def admit(self, retry_after_seconds: int) -> Iterator[Permit]:
        """Hold a place for one request.

        Args:
            retry_after_seconds: What a refused client is told.

        Raises:
            OverloadedError: All places are taken.
            ConnectionLimitError: More connections are open than may be, and none is idle.
        """
        if not self.has_free_connection:
            message = "more connections are open than this server may have, and none of them is idle"
            raise ConnectionLimitError(message)
        if self.inflight >= self.max_requests:
            message = f"{self.inflight} requests are being served or wait, which is the limit"
            raise OverloadedError(message, retry_after_seconds=retry_after_seconds)
        permit = Permit(self)
        self.inflight += 1
        self._idle.clear()
        try:
            yield permit
        finally:
            permit.release_upload_bytes()
            permit.set_work_units(0.0)
            self.inflight -= 1
            if self.inflight == 0:
                self.work_units = 0.0  # differences of floats leave a residue
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Return when no request is being served."""
        await self._idle.wait()
