"""Whether services would take their flags is what they say themselves; nothing is started."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.native.library import VARIABLE
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
    assert text.startswith(f"--tls-dir: {tmp_path / module.removesuffix('_service')}")


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
    starts = [text.split()[0] for text in refused("gateway", *files, "--otlp-endpoint", "host:1")]
    assert starts == ["--tls-dir:", "--tenants:", "--policy:", "--otlp-endpoint:"]


@pytest.mark.parametrize("module", SERVICES[1:])
@pytest.mark.parametrize(
    "flags",
    [
        {"--block-size": "48"},
        {"--device": "no such device"},
        {"--device": "mock:h100", "--model": "mock", "--quantization": "int4"},
        {"--device": "mock:h100", "--model": "mock", "--kv-cache-dtype": "int8"},
        {"--device": "cuda", "--quantization": "int8"},
    ],
)
def test_what_a_workers_device_does_not_take(module: str, flags: dict[str, str]) -> None:
    (text,) = refused(module, *itertools.chain(*flags.items()))
    assert text.startswith(f"{[*flags][-1]}: ")


def test_kernels_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "avx3")
    (text,) = refused("decode_service")
    assert text.startswith(f"{VARIABLE} is 'avx3'")


def test_more_positions_than_a_model_has_that_is_not_here_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    assert refused("decode_service", "--max-model-len", "8192") == []
    (text,) = refused("decode_service", "--max-model-len", "8193")
    assert text.startswith("--max-model-len: 8193 is more than the 8192 positions")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("model", ["org/name", "nothing"])
def test_of_a_model_that_is_not_known_nothing_is_said(model: str) -> None:
    assert refused("decode_service", "--model", model, "--max-model-len", "99999999") == []


def test_torch_is_not_imported() -> None:
    code = "import sys; from tandem.preflight import refusals; list(refusals('decode_service', ()))"
    code += "; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
