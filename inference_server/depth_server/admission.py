"""Decides before any work whether a request is taken. Used by the event loop only.

A request is refused if there are too many, if the client asks too often, if its bytes find no room, or if its answer is
predicted to come too late. The prediction is asked twice: when the request's head has arrived, so that a refusal is
cheap, and when its body has, before it is decoded: then it is known how much else came meanwhile.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from depth_server.batch_queue import REFERENCE_SIZE, SLO_SHARE, Forecast, OverloadPolicy, retry_after
from depth_server.batching import Lane
from depth_server.errors import ConnectionLimitError, OverloadedError, RateLimitedError, UploadTooLargeError
from depth_server.preprocess import Size
from depth_server.rate_limit import RateLimiter

MULTIPART_OVERHEAD_BYTES: Final = 16 * 1024
"""What a body may have beyond its file: boundaries and part headers."""

OVERHEAD_SMOOTHING: Final = 0.1
"""Weight of the newest request in the overhead."""

MAX_OVERHEAD_SHARE: Final = 0.5
"""Share of the SLO that the overhead may take in predictions: one hiccup must not make the server refuse everything."""


class Predicting(Protocol):
    """The part of `Engine` that admission asks."""

    @property
    def replicas(self) -> int:
        """Models side by side, each with a queue of its own."""

    def forecast(self, size: Size, lane: Lane = Lane.INTERACTIVE) -> Forecast:
        """Predict for an image of this size that would be submitted now."""


class Permit:
    """One accepted request: what it holds of the bounded resources."""

    def __init__(self, admission: "Admission", lane: Lane) -> None:
        self._admission = admission
        self.lane = lane
        self.upload_bytes = 0
        self.work_units = 0.0
        self.began: float | None = None
        self.engine_seconds: float | None = None
        self.is_preparing = False
        self.max_upload_bytes: int | None = None

    def add_upload_bytes(self, count: int) -> None:
        """Account for bytes that were received.

        Raises:
            UploadTooLargeError: More than one upload may have.
            OverloadedError: More than all uploads together may have.
        """
        self._admission.check_upload_bytes(self.upload_bytes + count, self.max_upload_bytes)
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

    def begin_work(self) -> None:
        """Tell that the upload is complete and is about to be decoded.

        Raises:
            OverloadedError: The answer would come too late.
        """
        self._admission.check_in_time(self.lane)
        self.began = self._admission.clock()
        self._set_preparing(preparing=True)

    def observe_engine(self, seconds: float) -> None:
        """Tell how long an image waited for the engine and was in it; of several, which go side by side, the longest.

        Whatever else the request takes is learnt from the difference.
        """
        self.engine_seconds = max(self.engine_seconds or 0.0, seconds)

    def set_work_units(self, work_units: float) -> None:
        """Tell what the request costs, once its size is known and the engine gets it."""
        self._set_preparing(preparing=False)
        self._admission.work_units += work_units - self.work_units
        self.work_units = work_units

    def _set_preparing(self, *, preparing: bool) -> None:
        self._admission.preparing += preparing - self.is_preparing
        self.is_preparing = preparing


class Admission:
    """Counts accepted requests and refuses what does not fit.

    Args:
        max_requests: Requests accepted and not yet answered, per replica of the engine.
        max_upload_bytes: Bytes of one upload, without the multipart framing.
        max_inflight_upload_bytes: Bytes of all uploads not yet decoded.
        max_work_units: Work units of all images in work, per replica; bounds their memory.
        slo_seconds: Time within which interactive requests should be answered.
        overload: Whether the newcomer is refused when it would be late; otherwise the engine makes room for it.
        rate_limiter: Limits each client, or None.
        reference_size: Input size assumed for a request of which only the head is known.
        clock: Monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 every bound is a name of its own
        self,
        *,
        max_requests: int,
        max_upload_bytes: int,
        max_inflight_upload_bytes: int,
        max_work_units: float = math.inf,
        slo_seconds: float = math.inf,
        overload: OverloadPolicy = OverloadPolicy.REJECT,
        rate_limiter: RateLimiter | None = None,
        reference_size: Size = REFERENCE_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_requests = max_requests
        self.max_upload_bytes = max_upload_bytes
        self.max_inflight_upload_bytes = max_inflight_upload_bytes + MULTIPART_OVERHEAD_BYTES
        self.max_work_units = max_work_units
        self.slo_seconds = slo_seconds
        self.overload = overload
        self.clock = clock
        self.reference_size = reference_size
        self.inflight = 0
        self.preparing = 0
        self.upload_bytes = 0
        self.work_units = 0.0
        self.has_free_connection = True
        self._rate_limiter = rate_limiter
        self._engine: Predicting | None = None
        self._replicas = 1
        self._overhead_seconds = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def overhead_seconds(self) -> float:
        """Time that a request takes beside the engine's: decoding, encoding, waiting for cores."""
        return min(self._overhead_seconds, MAX_OVERHEAD_SHARE * self.slo_seconds)

    def follow(self, engine: Predicting) -> None:
        """Ask this engine from now on when an image would be finished; the bounds hold for each of its replicas."""
        self._engine = engine
        self._replicas = engine.replicas

    def check_upload_bytes(self, count: int, limit: int | None = None) -> None:
        """Compare the bytes of a body, announced or received, with the limit.

        Args:
            count: Bytes.
            limit: Of this body; None is the limit of one upload.

        Raises:
            UploadTooLargeError: Too many.
        """
        most = self.max_upload_bytes if limit is None else limit
        if count > most + MULTIPART_OVERHEAD_BYTES:
            message = f"the upload has more than {most} bytes"
            raise UploadTooLargeError(message)

    def check_rate(self, client: str) -> None:
        """Count one request of a client.

        Raises:
            RateLimitedError: It asks too often.
        """
        if self._rate_limiter is None:
            return
        seconds = self._rate_limiter.take(client)
        if seconds > 0:
            message = "this client asks more often than it may"
            raise RateLimitedError(message, retry_after_seconds=retry_after(seconds))

    def predict_seconds(self, lane: Lane) -> float:
        """Predict when a request that is accepted now would be answered; 0 if no engine is followed."""
        if self._engine is None:
            return 0.0
        forecast = self._engine.forecast(self.reference_size, lane)
        return forecast.finish_seconds + self.preparing * forecast.image_seconds

    def check_in_time(self, lane: Lane) -> None:
        """Predict when a request would be answered, and refuse it if that is too late.

        A server without work takes any request: with an SLO that it cannot keep it would serve nobody.

        Raises:
            OverloadedError: Too late for the SLO, and the newcomer is what gives way.
        """
        if self._engine is None:
            return
        forecast = self._engine.forecast(self.reference_size, lane)
        ahead = self.preparing * forecast.image_seconds
        wait = forecast.wait_seconds + ahead
        finish = forecast.latest_finish_seconds + ahead
        late = finish + self.overhead_seconds - SLO_SHARE * self.slo_seconds
        if lane is Lane.INTERACTIVE and self.overload is OverloadPolicy.REJECT and wait > 0 and late > 0:
            message = f"the answer would come after {finish + self.overhead_seconds:.2g} s, which is too late"
            raise OverloadedError(message, retry_after_seconds=retry_after(late))

    @contextlib.contextmanager
    def admit(self, retry_after_seconds: int, lane: Lane = Lane.INTERACTIVE) -> Iterator[Permit]:
        """Hold a place for one request.

        Args:
            retry_after_seconds: What a client is told that finds all places taken.
            lane: Priority of the request.

        Raises:
            OverloadedError: All places or all the memory is taken, or the answer would come too late.
            ConnectionLimitError: More connections are open than may be, and none is idle.
        """
        if not self.has_free_connection:
            message = "more connections are open than this server may have, and none of them is idle"
            raise ConnectionLimitError(message)
        if self.inflight >= self.max_requests * self._replicas:
            message = f"{self.inflight} requests are being served or wait, which is the limit"
            raise OverloadedError(message, retry_after_seconds=retry_after_seconds)
        if self.work_units >= self.max_work_units * self._replicas:
            message = f"images of {self.work_units:.0f} work units are in work, which is the limit"
            raise OverloadedError(message, retry_after_seconds=retry_after_seconds)
        self.check_in_time(lane)
        permit = Permit(self, lane)
        self.inflight += 1
        self._idle.clear()
        try:
            yield permit
            self._learn(permit)
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

    def _learn(self, permit: Permit) -> None:
        """See what a request that succeeded took beside the engine's time."""
        if permit.began is None or permit.engine_seconds is None:
            return
        excess = max(self.clock() - permit.began - permit.engine_seconds, 0.0)
        self._overhead_seconds += OVERHEAD_SMOOTHING * (excess - self._overhead_seconds)
