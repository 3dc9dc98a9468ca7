"""`tandem up` as a user runs it: real processes, mock GPUs."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from up import DEADLINE_S, Up, wait_until

from tandem.bench.ports import free_port
from tandem.cli.flags import GatewayFlags
from tandem.cli.restart import restart_worker
from tandem.cli.workers import show_workers
from tandem.core.installation import own_version


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*arguments: str) -> Up:
        started.append(Up(tmp_path, *arguments))
        started[-1].wait_until_ready()
        return started[-1]

    yield start
    for up in started:
        up.close()


def fail(*arguments: str) -> str:
    """What a `tandem up` says that must not start."""
    process = subprocess.run(
        [sys.executable, "-m", "tandem.cli", "up", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert process.returncode == 1
    assert process.stdout == ""
    return process.stderr


@pytest.mark.parametrize("topology", ["1p1d", "2p2d"])
def test_it_serves_and_ctrl_c_leaves_nothing(start: Callable[..., Up], topology: str) -> None:
    up = start("--topology", topology)
    answer = up.complete().json()
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["tandem"]["prefill_worker"].startswith("prefill-")
    assert answer["tandem"]["decode_worker"].startswith("decode-")
    assert answer["tandem"]["kv_bytes"] > 0
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(DEADLINE_S) == 0
    assert up.said().endswith("bye\n")
    assert not up.has_orphans()


def test_sigterm_is_a_stop_as_well(start: Callable[..., Up]) -> None:
    up = start()
    up.process.terminate()
    assert up.process.wait(DEADLINE_S) == 0
    assert not up.has_orphans()


def test_a_second_ctrl_c_ends_what_does_not_listen(start: Callable[..., Up]) -> None:
    up = start()
    for child in up.children:
        child.suspend()  # deaf to all but SIGKILL
    up.process.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping" in up.said(), "stopping")
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(DEADLINE_S) == 0
    assert not up.has_orphans()


def test_no_child_survives_a_killed_parent(start: Callable[..., Up]) -> None:
    up = start()
    assert len(up.children) == 3
    up.process.kill()
    up.process.wait()
    wait_until(lambda: not up.has_orphans(), "ended with the parent")


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_killed_worker_comes_back_and_serves(start: Callable[..., Up], role: str) -> None:
    up = start()
    killed = up.child(role)
    killed.kill()
    wait_until(lambda: f"starting {role}-0 again" in up.said(), "started again")
    assert f"{role}-0 died, killed by SIGKILL" in up.said()
    assert up.child(role).pid != killed.pid
    wait_until(lambda: f"{role}-0" in up.workers(), "joined again")
    wait_until(lambda: up.complete().status_code == 200, "serving again")


def wait_for_both(up: Up) -> None:
    """Decode workers: it is ready with the first of each role."""
    wait_until(lambda: {"decode-0", "decode-1"} <= up.workers(), "both decode workers")


def test_a_worker_is_restarted_and_its_successor_awaited(
    start: Callable[..., Up], capsys: pytest.CaptureFixture[str]
) -> None:
    up = start("--topology", "1p2d")
    wait_for_both(up)
    before = up.child("decode")
    gateway = GatewayFlags(f"127.0.0.1:{up.grpc_port}")
    restart_worker(gateway, "decode-0", None, DEADLINE_S)
    assert f"decode-0 serves again: version {own_version()}, pid " in capsys.readouterr().out
    assert not before.is_running()
    show_workers(gateway)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == [own_version()] * 3
    pids = {int(line.split()[-2]) for line in lines[1:]}
    assert pids <= {each.pid for each in psutil.Process(up.process.pid).children()}


def test_a_worker_that_is_told_to_end_is_started_again(start: Callable[..., Up]) -> None:
    up = start("--topology", "1p2d")
    wait_for_both(up)
    up.child("decode").terminate()
    wait_until(lambda: "starting decode-0 again" in up.said(), "started again")
    assert "decode-0 has ended\n" in up.said()
    assert up.complete().status_code == 200


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = fail("--device", "mock:zero", "--model", "mock", "--http-port", str(port))
    assert said == (
        f"error: cannot listen on 127.0.0.1:{port} (Address already in use): write another"
        " --http-port; `tandem doctor` says what has it\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--topology", "3x"], "unknown topology '3x'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--device", "mock:nothing"], "unknown profile 'nothing'"),
        (["--device", "mock:zero", "--model", "/no/such/folder"], "no model '/no/such/folder'"),
        (["--device", "cpu", "--model", "mock"], "has no weights"),
        (["--host", "192.0.2.1"], "192.0.2.1 is no address of this machine: write --host "),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments: list[str], expected: str) -> None:
    ports = ("--http-port", str(free_port()), "--grpc-port", str(free_port()))
    said = fail(*ports, *arguments)
    assert said.startswith("error: ")
    assert expected in said
    assert said.count("\n") == 1


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    http_port, grpc_port, port_base = (str(free_port()) for _ in range(3))
    said = fail(
        *("--device", "mock:zero", "--model", "mock", "--num-blocks", "0"),
        *("--http-port", http_port, "--grpc-port", grpc_port, "--port-base", port_base),
        *("--log-dir", str(tmp_path)),
    )
    assert "could not start, exit status 2: --num-blocks:" in said


def test_services_are_run_by_name() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tandem.cli", "decode", "--help"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert process.stdout.startswith("usage: tandem decode")
