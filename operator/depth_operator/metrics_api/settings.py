"""What the metrics API needs to know; the operator's `Settings` has it under the same names."""

from __future__ import annotations

from typing import Protocol


class MetricsApiSettings(Protocol):
    """Settings of `python -m depth_operator metrics-api`.

    The environment variable of a field is `DEPTH_OPERATOR_` and its name in upper case, such as
    `DEPTH_OPERATOR_METRICS_API_PORT`.
    """

    @property
    def metrics_api_host(self) -> str:
        """Address to listen on, `127.0.0.1` by default; `0.0.0.0` in a pod."""

    @property
    def metrics_api_port(self) -> int:
        """Port to listen on, 6443 by default; 0 takes a free one."""

    @property
    def metrics_api_cert_file(self) -> str:
        """Serving certificate, PEM, valid for `<service>.<namespace>.svc`. Required; read again when it changes."""

    @property
    def metrics_api_key_file(self) -> str:
        """Its private key, PEM. Required; read again when it changes."""

    @property
    def metrics_api_reload_seconds(self) -> float:
        """Time between two looks at the certificate and the front-proxy configuration, 10 by default."""

    @property
    def metrics_api_authorization_cache_seconds(self) -> float:
        """How long an answer of a SubjectAccessReview is used, 10 by default."""

    @property
    def metrics_api_drain_seconds(self) -> float:
        """How long requests are still answered after SIGTERM while `/readyz` is already 503, 5 by default."""

    @property
    def watch_namespace(self) -> str | None:
        """The only namespace that is served; None for all."""

    @property
    def api_timeout_seconds(self) -> float:
        """Time limit of one request to the Kubernetes API server."""
