"""`tandem doctor` as a user runs it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.bench.ports import free_port
from tandem.cli.doctor.findings import Level

TIMEOUT_S = 100


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tandem.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "COLUMNS": "80", **environment},
    )


@pytest.fixture
def free_ports() -> tuple[str, ...]:
    """None that anybody else is given meanwhile, who asks for any."""
    port = free_port()
    return ("--http-port", str(port), "--grpc-port", str(port + 1))


def test_it_says_how_tandem_would_start(tmp_path: Path, free_ports: tuple[str, ...]) -> None:
    said = doctor(*free_ports, TANDEM_CACHE=str(tmp_path / "cache"))
    assert said.returncode == 0, said.stdout
    assert "\x1b" not in said.stdout
    *findings, empty, last = said.stdout.splitlines()
    # Each on one line, for who reads it by grep.
    starts = {line.partition(" ")[0] or line.strip()[:2] for line in findings}
    assert starts <= {*(level.value for level in Level), "->"} and not empty
    assert last.startswith("tandem up would start prefill-0 on :")
    assert list(tmp_path.iterdir()) == []  # it only looks


def test_a_taken_port_stops_it_and_is_mended(free_ports: tuple[str, ...]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        flags = ("--device", "mock:zero", "--model", "mock", *free_ports[2:])
        said = doctor("--json", "--http-port", str(port), *flags)
        found = json.loads(said.stdout)
        (bad,) = [each for each in found["findings"] if each["level"] == "problem"]
        assert doctor(*flags, *bad["mend"].split()).returncode == 0
    assert said.returncode == 1
    assert not found["would_start"]
    assert bad["text"].startswith(f"{port} is taken by ")


def test_what_the_services_would_refuse_stops_it(
    tmp_path: Path, free_ports: tuple[str, ...]
) -> None:
    said = doctor("--json", "--device", "mock:nothing", "--tls-dir", str(tmp_path), *free_ports)
    problems = [each for each in json.loads(said.stdout)["findings"] if each["level"] == "problem"]
    assert said.returncode == 1
    # They are asked though there is no such device.
    assert [each["subject"] for each in problems] == ["device", *["flags"] * 3]
    for role in ("gateway", "prefill", "decode"):
        assert any(str(tmp_path / role) in each["text"] for each in problems)


def test_a_wrong_topology_is_said_in_a_line() -> None:
    said = doctor("--topology", "3x")
    assert said.returncode == 1
    assert said.stderr.startswith("error: unknown topology '3x'")


def test_the_environment_twins_count(free_ports: tuple[str, ...]) -> None:
    said = doctor(*free_ports, TANDEM_DEVICE="mock:nothing")
    assert said.returncode == 1
    assert "unknown profile 'nothing'" in " ".join(said.stdout.split())
