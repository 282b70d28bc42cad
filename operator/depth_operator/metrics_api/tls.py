"""The TLS side of the server: its certificate, and the front-proxy CA that client certificates must chain to."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class CertificateError(Exception):
    """The serving certificate or the client CA cannot be used; the message names the file."""


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """All that a TLS context is made of; two equal ones need no new context.

    Attributes:
        cert_file: Path of the serving certificate.
        key_file: Path of its key.
        cert: Content of the certificate file.
        key: Content of the key file; never shown.
        client_ca: PEM bundle; empty while it is not known, so that no client certificate is accepted.
    """

    cert_file: Path
    key_file: Path
    cert: bytes
    key: bytes
    client_ca: str

    def __repr__(self) -> str:
        return f"TlsMaterial({self.cert_file}, {self.key_file})"


def read_material(cert_file: Path, key_file: Path, client_ca: str) -> TlsMaterial:
    """Read the certificate and its key.

    Raises:
        CertificateError: If a file cannot be read.
    """
    try:
        return TlsMaterial(cert_file, key_file, cert_file.read_bytes(), key_file.read_bytes(), client_ca)
    except OSError as error:
        raise CertificateError(
            f"cannot read {error.filename}: {error.strerror}; mount the serving certificate"
        ) from error


def serving_context(material: TlsMaterial) -> ssl.SSLContext:
    """A context that serves the certificate and verifies client certificates if one is sent.

    Probes and discovery come without a certificate, so none is demanded here; a certificate that does not chain to the
    CA, is expired, or is not meant for clients ends the handshake.

    Raises:
        CertificateError: If key and certificate do not belong together or something is no PEM.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session carries the verdict on a certificate from an earlier handshake; every connection gets its own.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        context.load_cert_chain(material.cert_file, material.key_file)
        if material.client_ca:
            context.load_verify_locations(cadata=material.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (ssl.SSLError, OSError, ValueError) as error:
        raise CertificateError(
            f"cannot use {material.cert_file} with {material.key_file} and the front-proxy CA: {error}"
        ) from error
    return context
