"""An authority of one's own, and certificates of it: what `tandem certs` makes."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tandem.core.errors import ConfigError
from tandem.process.identity import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE
from tandem.wire.tls import Role

AUTHORITY_FOLDER = "ca"
AUTHORITY_DAYS = 3650
# Of clocks that are not quite right.
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Authority:
    """What certificates are signed with."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificates(tls_dir: Path, days: int) -> datetime:
    """Write a key and a certificate for each role, which hold for so many days, and the authority
    first if there is none; when they end.

    Each role has a folder of its own, to be given to its processes and to no others. Whatever is
    signed by the same authority gets on with what was signed before, so services can be given new
    certificates one by one. Raises `ConfigError`.
    """
    try:
        authority = _authority(tls_dir / AUTHORITY_FOLDER)
        end = min(_now() + timedelta(days=days), authority.certificate.not_valid_after_utc)
        for role in Role:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _role_certificate(authority, role, key, end)
            folder = _folder(tls_dir / role)
            _write(folder / AUTHORITY_FILE, authority.certificate.public_bytes(Encoding.PEM))
            _write_key(folder / KEY_FILE, key)
            _write(folder / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM))
    except OSError as error:
        raise ConfigError(f"certificates: {error.filename}: {error.strerror}") from None
    return end


def _authority(folder: Path) -> Authority:
    certificate_path, key_path = folder / AUTHORITY_FILE, folder / "ca.key"
    if key_path.exists():
        return _read_authority(certificate_path, key_path)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _authority_certificate(key)
    _folder(folder)
    _write(certificate_path, certificate.public_bytes(Encoding.PEM))
    _write_key(key_path, key)
    return Authority(certificate, key)


def _read_authority(certificate_path: Path, key_path: Path) -> Authority:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = load_pem_private_key(key_path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise ConfigError(f"certificates: {key_path.parent} holds no authority") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != (
        key.public_key()
    ):
        raise ConfigError(f"certificates: {key_path} is not the key of {certificate_path}")
    if certificate.not_valid_after_utc <= _now():
        raise ConfigError(f"certificates: {certificate_path} is over: remove {key_path.parent}")
    return Authority(certificate, key)


def _authority_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _name("Tandem's own authority")
    return (
        _builder(name, name, key, _now() + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _role_certificate(
    authority: Authority, role: Role, key: ec.EllipticCurvePrivateKey, end: datetime
) -> x509.Certificate:
    issuer = authority.key.public_key()
    # Both ends of a channel are services: each is a server here and a client there.
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _builder(_name(f"Tandem {role}"), authority.certificate.subject, key, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(role.certified_name)]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Whole or not at all, and never for a moment readable by more than `mode` allows."""
    unfinished = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):
        unfinished.unlink()
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    unfinished.replace(path)
