"""A process's identity, from files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509

from tandem.core.errors import ConfigError
from tandem.wire.tls import Identity, Role

log = structlog.get_logger(__name__)

# As in a Kubernetes secret of type `kubernetes.io/tls`, and as cert-manager writes them.
AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.crt", "tls.crt", "tls.key"
ENDS_SOON = timedelta(days=30)


def read_identity(tls_dir: Path, role: Role) -> Identity:
    """The identity in the folder's own folder for a role. Raises `ConfigError` for one that nobody
    would accept: not of this role, over, or not to be read."""
    folder = tls_dir / role
    identity = Identity(
        _read(folder / AUTHORITY_FILE), _read(folder / CERTIFICATE_FILE), _read(folder / KEY_FILE)
    )
    for name, pem in (
        (AUTHORITY_FILE, identity.authority),
        (CERTIFICATE_FILE, identity.certificate),
    ):
        _check_time(folder / name, _parse(folder / name, pem))
    certificate = _parse(folder / CERTIFICATE_FILE, identity.certificate)
    if role.certified_name not in _names(certificate):
        raise _config_error(
            folder / CERTIFICATE_FILE, f"is not a {role}'s: it lacks {role.certified_name}"
        )
    return identity


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _config_error(path, f"cannot be read: {error.strerror}") from None


def _parse(path: Path, pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise _config_error(path, "holds no certificate") from None


def _check_time(path: Path, certificate: x509.Certificate) -> None:
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    if end <= now:
        raise _config_error(path, f"ended at {end:%Y-%m-%d %H:%M}Z: see `tandem certs`")
    if certificate.not_valid_before_utc > now:
        raise _config_error(path, f"begins only at {certificate.not_valid_before_utc}")
    if end - now < ENDS_SOON:
        log.warning("certificate ends soon", file=str(path), end=f"{end:%Y-%m-%d %H:%M}Z")


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.DNSName)


def _config_error(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} {what}", param="tls_dir")
