"""Certificates of one cluster: a cluster CA, a front-proxy CA, and what they sign.

The extensions (KeyUsage, SubjectKeyIdentifier, AuthorityKeyIdentifier) are those that Python 3.13's strict
verification asks for (RFC 5280, section 4.2.1).
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from localcluster.settings import NODE_NAME
from localcluster.state import write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from localcluster.network import ClusterNetwork

CERTIFICATE_LIFE = dt.timedelta(days=365)
"""Life of every certificate; `up` makes new ones when less than a tenth is left."""

CLOCK_SKEW = dt.timedelta(minutes=5)
"""Certificates are valid from this long ago."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Authority:
    """A CA with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Subject:
    """What one certificate is for."""

    file: str
    common_name: str
    organization: str | None = None
    names: tuple[str, ...] = ()
    server: bool = False
    client: bool = True


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + CERTIFICATE_LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def new_authority(common_name: str) -> Authority:
    """Make a self-signed CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = _builder(name, name, key, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=True), critical=True)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def issue(authority: Authority, subject: Subject) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Make a key and a certificate for `subject`."""
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name)]
    if subject.organization:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, subject.organization))
    builder = _builder(x509.Name(attributes), authority.certificate.subject, key, authority.key)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(authority=False), critical=True)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] * subject.server + [ExtendedKeyUsageOID.CLIENT_AUTH] * subject.client
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if subject.names:
        names = [_alternative_name(name) for name in subject.names]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256()), key


def _private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(folder: Path, name: str, certificate: x509.Certificate, key: PrivateKey) -> None:
    write_atomically(folder / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM))
    write_atomically(folder / f"{name}.key", _private_pem(key), mode=0o600)


def subjects(network: ClusterNetwork) -> Sequence[Subject]:
    """Return every certificate that the cluster CA signs."""
    node = (network.node_address, network.node_loopback, NODE_NAME)
    api = (
        network.node_loopback,
        "127.0.0.1",
        network.kubernetes_service,
        f"127.{network.kubernetes_service.split('.', 1)[1]}",
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    )
    return (
        Subject("apiserver", "kube-apiserver", names=api, server=True, client=False),
        Subject("etcd", "etcd", names=(network.node_loopback,), server=True),
        Subject("apiserver-etcd-client", "kube-apiserver-etcd-client"),
        Subject("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "localcluster:kubelet-api"),
        Subject("admin", "kubernetes-admin", "system:masters"),
        Subject("controller-manager", "system:kube-controller-manager"),
        Subject("scheduler", "system:kube-scheduler"),
        Subject("node", f"system:node:{NODE_NAME}", "system:nodes", names=node, server=True),
    )


def is_fresh(folder: Path) -> bool:
    """Say whether the folder's certificates exist and have a tenth of their life left."""
    path = folder / "ca.crt"
    if not path.exists() or not (folder / "sa.pub").exists():
        return False
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate.not_valid_after_utc - dt.datetime.now(dt.UTC) > CERTIFICATE_LIFE / 10


def ensure(folder: Path, network: ClusterNetwork) -> None:
    """Write all certificates and keys into `folder` unless fresh ones are there.

    `sa.key` is kept when it exists, so that tokens survive a renewal of the certificates.
    """
    if is_fresh(folder):
        return
    front_proxy = new_authority("front-proxy-ca")
    _write(folder, "front-proxy-ca", front_proxy.certificate, front_proxy.key)
    _write(folder, "front-proxy-client", *issue(front_proxy, Subject("front-proxy-client", "front-proxy-client")))
    authority = new_authority("kubernetes-ca")
    for subject in subjects(network):
        _write(folder, subject.file, *issue(authority, subject))
    if not (folder / "sa.key").exists():
        key = rsa.generate_private_key(65537, 2048)
        write_atomically(folder / "sa.key", _private_pem(key), mode=0o600)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        write_atomically(folder / "sa.pub", public)
    # Last, because its presence says that everything else is complete.
    _write(folder, "ca", authority.certificate, authority.key)
