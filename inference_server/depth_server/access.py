"""Builds what guards the server, authentication and face blurring, from the settings."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI

from depth_server.access_settings import AccessSettings, AuthMode, FaceBlurStyle
from depth_server.api_keys import parse_api_keys
from depth_server.auth import ApiKeyAuthenticator, AuthenticationMiddleware, Authenticator, JwtAuthenticator
from depth_server.errors import StartupError, StartupReason
from depth_server.faces import FaceBlur
from depth_server.jwks import FileKeys, KeySource, RemoteKeys, jwks_fetcher, parse_keys
from depth_server.jwt_tokens import TokenPolicy
from depth_server.reloading_file import Parsed, ReloadingFile
from depth_server.security_headers import SecurityHeadersMiddleware


def build_authenticator(settings: AccessSettings) -> Authenticator | None:
    """Make what tells who sent a request; None where everybody may use the server.

    Raises:
        StartupError: `InvalidSettings`: a file of keys cannot be used.
    """
    if settings.auth is AuthMode.NONE:
        return None
    if settings.auth is AuthMode.API_KEY:
        if settings.api_keys_file is None:
            message = "DEPTH_SERVER_AUTH=api-key needs DEPTH_SERVER_API_KEYS_FILE"
            raise StartupError(StartupReason.INVALID_SETTINGS, message)
        return ApiKeyAuthenticator(
            _open(settings, "DEPTH_SERVER_API_KEYS_FILE", settings.api_keys_file, parse_api_keys).current
        )
    policy = TokenPolicy(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        algorithms=frozenset(settings.jwt_algorithms.split()),
        leeway_seconds=settings.jwt_leeway_seconds,
    )
    return JwtAuthenticator(_key_source(settings), policy)


def add_access_control(app: FastAPI, settings: AccessSettings, on_refusal: Callable[[str], None]) -> None:
    """Put authentication, where it is on, and the security headers in front of an application.

    Args:
        app: Not serving yet.
        settings: Which credentials, and which scopes they need.
        on_refusal: Told the reason of every refusal.

    Raises:
        StartupError: See `build_authenticator`.
    """
    authenticator = build_authenticator(settings)
    # The one added last sees a request first.
    if authenticator is not None:
        app.add_middleware(
            AuthenticationMiddleware,
            authenticator=authenticator,
            required_scopes=frozenset(settings.auth_required_scopes.split()),
            on_refusal=on_refusal,
        )
    app.add_middleware(SecurityHeadersMiddleware)


def build_face_blur(settings: AccessSettings, observe: Callable[[float, int], None]) -> FaceBlur | None:
    """Make what blurs faces; None where they are left.

    Raises:
        StartupError: `InvalidSettings`: the face detector cannot be used.
    """
    if settings.face_blur is FaceBlurStyle.OFF:
        return None
    # onnxruntime takes a moment and memory to import, which only those pay who use it.
    from depth_server.centerface import CenterFace, read_model, read_packaged_model  # noqa: PLC0415

    path = settings.face_detector_model
    try:
        detector = CenterFace(
            read_packaged_model() if path is None else read_model(path),
            max_side=settings.face_detection_max_side,
            threshold=settings.face_detection_threshold,
        )
    except (OSError, ValueError) as error:
        where = "the packaged face detector" if path is None else f"DEPTH_SERVER_FACE_DETECTOR_MODEL={path}"
        message = f"DEPTH_SERVER_FACE_BLUR={settings.face_blur}, but {where} cannot be used: {error}"
        raise StartupError(StartupReason.INVALID_SETTINGS, message) from error
    return FaceBlur(
        detector,
        style=settings.face_blur,
        dilation=settings.face_dilation,
        threads=ThreadPoolExecutor(settings.face_threads, thread_name_prefix="faces"),
        max_pending=settings.max_pending_face_detections,
        timeout_seconds=settings.face_detection_timeout_seconds,
        observe=observe,
    )


def _key_source(settings: AccessSettings) -> KeySource:
    if settings.jwt_key_file is not None:
        return FileKeys(_open(settings, "DEPTH_SERVER_JWT_KEY_FILE", settings.jwt_key_file, parse_keys))
    return RemoteKeys(
        jwks_fetcher(settings.jwt_jwks_url, settings.jwks_timeout_seconds),
        max_age_seconds=settings.jwks_max_age_seconds,
        refetch_seconds=settings.jwks_refetch_seconds,
        max_stale_seconds=settings.jwks_max_stale_seconds,
        clock=time.monotonic,
    )


def _open(
    settings: AccessSettings, variable: str, path: Path, parse: Callable[[bytes], Parsed]
) -> ReloadingFile[Parsed]:
    try:
        return ReloadingFile(path, parse, interval_seconds=settings.credentials_reload_seconds, clock=time.monotonic)
    except (OSError, ValueError) as error:
        message = f"{variable}={path} cannot be used: {error}"
        raise StartupError(StartupReason.INVALID_SETTINGS, message) from error
