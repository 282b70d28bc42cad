"""Settings of batching, admission and engine processes.

A base class of `settings.Settings`, so that they are read, checked and reported together with the rest.
"""

from typing import Annotated, Final

from pydantic import Field
from pydantic_settings import BaseSettings

from depth_server.batch_queue import OverloadPolicy
from depth_server.batching import BATCH_SIZES

Duration = Annotated[float, Field(gt=0, le=3600)]

MAX_ENGINE_PROCESSES: Final = 64
"""Most engine processes: more GPUs than any machine has."""


class EngineSettings(BaseSettings):
    """Batching, admission and engine processes."""

    engine_processes: int = Field(default=0, ge=0, le=MAX_ENGINE_PROCESSES)
    """Engine processes; 0 is one for each GPU that is visible, and on a CPU none: there the model runs in the server's
    own process."""
    max_engine_restarts: int = Field(default=5, ge=0)
    """Restarts of an engine process one after another before the server counts as failed."""
    engine_restart_seconds: Duration = 1
    """Wait before an engine process is started again; it doubles with each further restart, up to a minute."""
    slo_seconds: Duration = 10
    """Time within which a request should be answered: one whose answer is predicted to come later than 90 % of it is
    refused with 429."""
    job_ageing_seconds: Duration = 30
    """Time after which a job goes before interactive requests."""
    max_batch_size: int = Field(default=BATCH_SIZES[0], ge=1, le=BATCH_SIZES[0])
    """Images of the largest batch; the warm-up may find that smaller ones are better."""
    max_queued_work_units: float = Field(default=128, ge=4, le=100_000)
    """Memory of the images in work, in work units of 3.2 MB (one is a 518x518 input); more is refused with 429."""
    overload_policy: OverloadPolicy = OverloadPolicy.REJECT
    """What gives way under overload: the newcomer, or the oldest interactive request that waits."""
    calibration_seconds: float = Field(default=10, ge=0, le=3600)
    """Time that the warm-up may take to measure batches."""
    rate_limit_per_second: float = Field(default=0, ge=0, le=100_000)
    """Requests per second that one client may make; 0 is no limit. A client is who it authenticated as, or else its
    address."""
    rate_limit_burst: int = Field(default=20, ge=1, le=100_000)
    """Requests that one client may make at once after a pause."""
    rate_limit_clients: int = Field(default=10_000, ge=1, le=1_000_000)
    """Clients that are remembered."""
