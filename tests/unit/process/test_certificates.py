"""What `tandem certs` makes, and what a process takes of it."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from tandem.core.errors import ConfigError
from tandem.process import certificates
from tandem.process.certificates import make_certificates
from tandem.process.identity import read_identity
from tandem.process.settings import ServiceSettings
from tandem.wire.tls import Role

FILES = {"ca.crt", "tls.crt", "tls.key"}


@pytest.fixture
def tls_dir(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "tls", 365)
    return tmp_path / "tls"


def made_at(monkeypatch: pytest.MonkeyPatch, now: datetime, tls_dir: Path, days: int) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(certificates, "_now", lambda: now)
        make_certificates(tls_dir, days)


def certificate_of(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())


def test_each_role_has_a_folder_and_its_keys_are_the_owners_alone(tls_dir: Path) -> None:
    assert {folder.name for folder in tls_dir.iterdir()} == {*Role, "ca"}
    for role in Role:
        assert {file.name for file in (tls_dir / role).iterdir()} == FILES
        assert read_identity(tls_dir, role).key
    for file in tls_dir.rglob("*"):
        mode = stat.S_IMODE(file.stat().st_mode)
        assert not mode & 0o077 or file.suffix == ".crt", file


@pytest.mark.parametrize("role", list(Role))
def test_a_certificate_is_of_its_role_and_signs_no_others(tls_dir: Path, role: Role) -> None:
    certificate = certificate_of(tls_dir / role)
    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"{role}.tandem.internal"]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    authority = x509.load_pem_x509_certificate((tls_dir / "ca" / "ca.crt").read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_run_again_it_renews_and_the_authority_stays(tls_dir: Path) -> None:
    before = {role: read_identity(tls_dir, role) for role in Role}
    make_certificates(tls_dir, 10)
    for role in Role:
        now = read_identity(tls_dir, role)
        assert now.authority == before[role].authority
        assert now.key != before[role].key
    left = certificate_of(tls_dir / "gateway").not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=9) < left < timedelta(days=11)


def test_nothing_holds_longer_than_its_authority(tls_dir: Path) -> None:
    end = make_certificates(tls_dir, 100_000)
    assert end == certificate_of(tls_dir / "decode").not_valid_after_utc
    assert end - datetime.now(UTC) < timedelta(days=3651)


def test_an_authority_that_is_over_or_anothers_is_refused(
    tls_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old"
    made_at(monkeypatch, datetime(2010, 1, 1, tzinfo=UTC), old, 30)
    with pytest.raises(ConfigError, match="is over"):
        make_certificates(old, 30)
    (tls_dir / "ca" / "ca.key").write_bytes((old / "ca" / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match="is not the key of"):
        make_certificates(tls_dir, 30)
    (tls_dir / "ca" / "ca.key").write_text("nonsense")
    with pytest.raises(ConfigError, match="holds no authority"):
        make_certificates(tls_dir, 30)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        make_certificates(tmp_path / "file", 30)


def test_an_identity_that_nobody_would_accept_is_refused(
    tls_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    made_at(monkeypatch, now - timedelta(days=31), tls_dir, 30)
    with pytest.raises(ConfigError, match=r"gateway/tls.crt ended at .*tandem certs"):
        read_identity(tls_dir, Role.GATEWAY)
    made_at(monkeypatch, now + timedelta(days=2), tls_dir, 30)
    with pytest.raises(ConfigError, match="begins only"):
        read_identity(tls_dir, Role.GATEWAY)


def test_one_that_ends_soon_is_warned_of(tls_dir: Path) -> None:
    with capture_logs() as logs:
        read_identity(tls_dir, Role.GATEWAY)
    assert not logs
    make_certificates(tls_dir, 29)
    with capture_logs() as logs:
        read_identity(tls_dir, Role.GATEWAY)
    assert [each["event"] for each in logs] == ["certificate ends soon"]


def test_anothers_folder_is_no_identity(tls_dir: Path) -> None:
    (tls_dir / "gateway").rename(tls_dir / "was-gateway")
    (tls_dir / "decode").rename(tls_dir / "gateway")
    with pytest.raises(ConfigError, match="is not a gateway's"):
        read_identity(tls_dir, Role.GATEWAY)
    with pytest.raises(ConfigError, match=r"decode/ca.crt cannot be read: No such file"):
        ServiceSettings(tls_dir=tls_dir).read_identity(Role.DECODE)
    (tls_dir / "prefill" / "tls.crt").write_text("nonsense")
    with pytest.raises(ConfigError, match="holds no certificate"):
        read_identity(tls_dir, Role.PREFILL)


def test_without_a_folder_there_is_no_tls() -> None:
    assert ServiceSettings().read_identity(Role.GATEWAY) is None


def test_a_key_is_not_told(tls_dir: Path) -> None:
    assert "PRIVATE" not in repr(read_identity(tls_dir, Role.GATEWAY))
