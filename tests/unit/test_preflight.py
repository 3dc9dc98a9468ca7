"""Whether services would take their flags is what they say themselves; nothing is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.preflight import refusals
from tandem.process.certificates import make_certificates

SERVICES = ("gateway", "prefill_service", "decode_service")


def refused(module: str, *flags: str) -> list[str]:
    return list(refusals(module, flags))


@pytest.mark.parametrize("module", SERVICES)
def test_what_is_right_is_taken(module: str, tmp_path: Path) -> None:
    make_certificates(tmp_path, 365)
    assert refused(module) == []
    assert refused(module, "--tls-dir", str(tmp_path), "--drain-timeout", "9") == []


@pytest.mark.parametrize("module", SERVICES)
def test_a_tls_folder_without_certificates(module: str, tmp_path: Path) -> None:
    (text,) = refused(module, "--tls-dir", str(tmp_path))
    assert text.startswith(f"TLS: {tmp_path / module.removesuffix('_service')}")


def test_another_roles_certificates(tmp_path: Path) -> None:
    make_certificates(tmp_path, 365)
    (tmp_path / "gateway").rename(tmp_path / "spare")
    (tmp_path / "prefill").rename(tmp_path / "gateway")
    (text,) = refused("gateway", "--tls-dir", str(tmp_path))
    assert "is not a gateway's" in text


@pytest.mark.parametrize(
    ("flag", "content", "words"),
    [
        ("--tenants", "[a]\nweight = -1", "a.weight"),
        ("--tenants", "no [toml", "is not TOML"),
        ("--api-keys", "no [toml", "is not TOML"),
        ("--api-keys", "secret = 'default'", "is no SHA-256"),
    ],
)
def test_a_file_that_is_wrong(flag: str, content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    (text,) = refused("gateway", flag, str(file))
    assert words in text


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--policy", "nonsense", "unknown policy 'nonsense': there are edf, fcfs"),
        ("--batching", "nonsense", "unknown batching 'nonsense'"),
        ("--self-check", "7", "--self-check: Input should be less than"),
        ("--decode", "", "at least one decode worker"),
    ],
)
def test_a_flag_of_the_gateways(flag: str, value: str, words: str) -> None:
    (text,) = refused("gateway", flag, value)
    assert words in text


def test_all_that_is_wrong_is_said(tmp_path: Path) -> None:
    settings = refused("decode_service", "--max-num-seqs", "0", "--prefix-caching", "x")
    assert {text.split(":")[0] for text in settings} == {"--prefix-caching", "--max-num-seqs"}
    files = ("--tls-dir", str(tmp_path), "--tenants", str(tmp_path), "--policy", "x")
    starts = [text.split()[0] for text in refused("gateway", *files)]
    assert starts == ["TLS:", "tenants:", "unknown"]
