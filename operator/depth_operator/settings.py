"""Settings of the operator's processes, read once from the environment and passed in.

Every field is the environment variable ``DEPTH_OPERATOR_<FIELD>``. The reference for users is
``docs/reference/operator-settings.md``; a test compares the two.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from depth_operator import __version__

DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]


class Settings(BaseSettings):
    """What can be set; the bounds are checked at the start of the process.

    Raises:
        pydantic.ValidationError: a value is out of its bounds or two values contradict each other.
    """

    model_config = SettingsConfigDict(env_prefix="DEPTH_OPERATOR_", frozen=True, extra="ignore", env_ignore_empty=True)

    namespace: DnsLabel = "depth-system"
    """Namespace of the operator itself: the Lease lives here."""
    watch_namespace: DnsLabel | None = None
    """The only namespace that is served; empty serves all namespaces."""
    identity: str = ""
    """Name of this process in the Lease and in Events; empty takes host name and a random suffix."""
    server_image: str = f"ghcr.io/depthserving/depth-server:{__version__}"
    """Image of the inference server where a DepthService names none."""

    host: str = "127.0.0.1"
    """Address that the health and metrics endpoints listen on."""
    health_port: Port = 8080
    """Port of /healthz and /readyz; 0 takes a free one."""
    metrics_port: Port = 8081
    """Port of /metrics; 0 takes a free one."""
    log_level: Annotated[str, StringConstraints(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    """Lowest level that is logged."""

    workers: Annotated[int, Field(ge=1, le=64)] = 4
    """DepthServices that are reconciled at the same time."""
    resync_interval_seconds: Seconds = 600.0
    """Every DepthService is reconciled, and its children applied, at least this often."""
    backoff_base_seconds: Seconds = 0.5
    """Longest delay before the first retry of a failed reconcile; it doubles with every failure."""
    backoff_cap_seconds: Seconds = 60.0
    """Longest delay before any retry."""
    reconcile_timeout_seconds: Seconds = 60.0
    """A reconcile that takes longer is cancelled and retried."""

    api_timeout_seconds: Seconds = 5.0
    """Time limit of one request to the Kubernetes API server."""
    api_concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    """Requests to the Kubernetes API server at the same time."""

    leader_elect: bool = True
    """Whether the process waits for the Lease before it writes. Off only where exactly one process runs."""
    lease_name: DnsLabel = "depth-operator"
    """Name of the Lease in the operator's namespace."""
    lease_duration_seconds: Annotated[int, Field(ge=2, le=600)] = 15
    """A Lease that was not renewed for this long may be taken over."""
    lease_renew_deadline_seconds: Seconds = 10.0
    """A leader that could not renew for this long stops writing and exits."""
    lease_retry_period_seconds: Seconds = 2.0
    """Time between two attempts to get or renew the Lease."""

    prometheus_address: Annotated[str, StringConstraints(pattern=r"^(https?://\S+)?$")] = ""
    """Base URL of Prometheus; empty makes autoscaling report MetricsMissing and hold the replicas."""
    prometheus_timeout_seconds: Seconds = 3.0
    """Time limit of one query."""
    metrics_window_seconds: Annotated[int, Field(ge=5, le=3600)] = 60
    """Window of the rates and quantiles that are read from Prometheus; at least four scrapes of the pods."""
    metrics_stale_after_seconds: Seconds = 45.0
    """Age from which on a sample says nothing about the present; three scrapes of the pods."""
    scaling_interval_seconds: Seconds = 5.0
    """Time between two scaling decisions of one DepthService."""
    stabilization_window_seconds: Seconds = 300.0
    """Fewer replicas are asked for only when fewer were enough for this long."""
    signals_refresh_seconds: Seconds = 30.0
    """Measured values alone rewrite the status at most this often."""

    metrics_api_host: str = "127.0.0.1"
    """Address that the metrics API listens on."""
    metrics_api_port: Port = 6443
    """Port of the metrics API; 0 takes a free one."""
    metrics_api_cert_file: str = ""
    """Serving certificate of the metrics API, PEM; required by ``metrics-api``."""
    metrics_api_key_file: str = ""
    """Its private key, PEM; required by ``metrics-api``."""
    metrics_api_reload_seconds: Seconds = 10.0
    """Time between two looks at the certificate and the front-proxy configuration."""
    metrics_api_authorization_cache_seconds: Seconds = 10.0
    """How long the answer of a SubjectAccessReview is used."""
    metrics_api_drain_seconds: Seconds = 5.0
    """How long the metrics API still answers after SIGTERM while its /readyz already is 503."""

    @model_validator(mode="after")
    def _lease_times_fit(self) -> Self:
        """A write that began as the leader must have ended before another process can lead."""
        if not self.lease_retry_period_seconds < self.lease_renew_deadline_seconds < self.lease_duration_seconds:
            message = (
                "DEPTH_OPERATOR_LEASE_RETRY_PERIOD_SECONDS < DEPTH_OPERATOR_LEASE_RENEW_DEADLINE_SECONDS"
                " < DEPTH_OPERATOR_LEASE_DURATION_SECONDS must hold"
            )
            raise ValueError(message)
        if self.leader_elect and self.api_timeout_seconds > (
            self.lease_duration_seconds - self.lease_renew_deadline_seconds
        ):
            message = (
                "DEPTH_OPERATOR_API_TIMEOUT_SECONDS must not be greater than DEPTH_OPERATOR_LEASE_DURATION_SECONDS"
                " minus DEPTH_OPERATOR_LEASE_RENEW_DEADLINE_SECONDS, or a deposed leader could still write"
            )
            raise ValueError(message)
        return self
