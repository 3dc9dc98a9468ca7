"""A site whose environment names a proxy, which knows nothing of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from up import DEADLINE_S, Up

from tandem.bench.report.load_report import read_report

PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY")


@pytest.fixture(scope="module")
def environment() -> Iterator[Mapping[str, str]]:
    """That of the site: nobody listens where its proxy is said to be."""
    with socket.socket() as taken, pytest.MonkeyPatch.context() as patched:
        taken.bind(("127.0.0.1", 0))
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            patched.delenv(name, raising=False)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        # A kind of which no HTTP client here makes any use, as desktops set it.
        yield {**dict.fromkeys(PROXIES, f"http://{address}"), "all_proxy": f"socks://{address}"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]) -> Iterator[Up]:
    with pytest.MonkeyPatch.context() as patched:
        for name, proxy in environment.items():
            patched.setenv(name, proxy)
        up = Up(tmp_path_factory.mktemp("up"), "--start-timeout", "100")
    try:
        up.wait_until_ready()
        yield up
    finally:
        up.close()


def run(environment: Mapping[str, str], module: str, *arguments: str) -> str:
    """What a command says that must not fail."""
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, **environment},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_kv_goes_from_worker_to_worker(up: Up) -> None:
    answer = up.complete().json()
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["tandem"]["kv_bytes"] > 0


@pytest.mark.parametrize("command", [["workers"], ["timeline"], ["chat", "Hi"]])
def test_commands_reach_the_gateway(
    up: Up, environment: Mapping[str, str], command: list[str]
) -> None:
    run(environment, "tandem.cli", *command, "--address", f"127.0.0.1:{up.grpc_port}")


def test_its_page_is_watched(up: Up, environment: Mapping[str, str]) -> None:
    assert "live" in run(environment, "tandem.cli", "top", "--once", "--url", up.url)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_it_is_put_under_load(
    up: Up, environment: Mapping[str, str], tmp_path: Path, scheme: str
) -> None:
    port = up.http_port if scheme == "http" else up.grpc_port
    metrics = f"{up.url}/metrics"
    out = tmp_path / "report.json"
    run(
        environment, "tandem.cli", "bench", "serve", "--url", f"{scheme}://127.0.0.1:{port}",
        *("--metrics", metrics, "--requests", "2", "--concurrency", "1"),
        *("--prompt-tokens", "8", "--output-tokens", "2", "--out", str(out)),
    )  # fmt: skip
    assert read_report(out).server is not None


@pytest.mark.parametrize("where", ["http://127.0.0.1:{http}/ready", "127.0.0.1:{grpc}"])
def test_container_engines_find_it_well(up: Up, environment: Mapping[str, str], where: str) -> None:
    address = where.format(http=up.http_port, grpc=up.grpc_port)
    run(environment, "tandem.process.healthcheck", address)
