"""How the doctor looks: at programs that misbehave, ports that are taken, folders that are not."""

import os
import socket
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from tandem.artifacts.resolve import resolve
from tandem.bench.ports import free_port
from tandem.cli.doctor import accelerators, probe, services, storage
from tandem.cli.doctor.accelerators import parse_driver, probe_compiler, probe_torch
from tandem.cli.doctor.child import Answer, ask
from tandem.cli.doctor.machine import Docker, Driver, Gpu, NoTorch, Torch
from tandem.cli.doctor.ports import probe_ports, probe_worker_ports, program_of
from tandem.cli.doctor.services import probe_services
from tandem.cli.doctor.storage import DEFAULT_MODEL, probe_folder, probe_model
from tandem.cli.fleet import PYTHON, WORKER_HOST, FleetSettings
from tandem.cli.ports import claimed_ports
from tandem.core.topology import parse_topology


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('fine')", Answer("fine")),
        ("raise SystemExit('broken\\n')", Answer("", "broken")),
        ("raise SystemExit(3)", Answer("", "exit status 3")),
        ("import os; os.kill(os.getpid(), 11)", Answer("", "killed by SIGSEGV")),
    ],
)
def test_what_a_program_says_last(code: str, expected: Answer) -> None:
    assert ask(python(code), timeout_s=60) == expected


def test_a_program_that_is_not_there() -> None:
    assert ask(["no-such-program-anywhere"], timeout_s=1) is None


def test_a_program_that_hangs() -> None:
    answer = ask(python("import threading; threading.Event().wait()"), 0.2)
    assert answer == Answer("", "no answer within 0.2 s")


def test_torch_is_asked_in_a_process_of_its_own() -> None:
    found = probe_torch()
    assert isinstance(found, Torch)
    assert found.auto_dtype in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('no libgomp.so.1')", "ImportError: no libgomp.so.1"),
        ("import os; os.kill(os.getpid(), 4)", "killed by SIGILL"),
    ],
)
def test_a_torch_that_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    (tmp_path / "torch.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert probe_torch() == NoTorch(reason)


def test_a_torch_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "find_spec", lambda name: None)
    assert probe_torch() == NoTorch()


@pytest.mark.parametrize(
    ("here", "own", "found"),
    [
        (("clang", "gcc"), None, "gcc"),
        (("clang",), None, "clang"),
        (("clang", "gcc", "icx"), "icx", "icx"),
        (("gcc",), "icx", ""),
        ((), None, ""),
    ],
)
def test_the_compiler_is_the_one_that_triton_takes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    here: tuple[str, ...],
    own: str | None,
    found: str,
) -> None:
    for name in here:
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if own:
        monkeypatch.setenv("CC", own)
    assert Path(probe_compiler().path).name == found


def test_headers_are_looked_for_where_this_python_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    assert not probe_compiler().has_headers
    (tmp_path / "Python.h").touch()
    assert probe_compiler().has_headers
    assert probe_compiler().headers == str(tmp_path)


def test_what_nvidia_smi_prints() -> None:
    text = "580.65, 23034, 22491, NVIDIA L4\n580.65, 81559, 1, NVIDIA H100 80GB HBM3, or so"
    mib = 2**20
    assert parse_driver(text) == Driver(
        "580.65",
        (
            Gpu("NVIDIA L4", 23034 * mib, 22491 * mib),
            Gpu("NVIDIA H100 80GB HBM3, or so", 81559 * mib, mib),
        ),
    )
    assert parse_driver("No devices were found") is None


def settings(http_port: int, port_base: int = 20000) -> FleetSettings:
    return FleetSettings(
        topology=parse_topology("1p1d"),
        model="mock",
        device="mock:zero",
        host="127.0.0.1",
        http_port=http_port,
        grpc_port=0,
        port_base=port_base,
    )


def test_services_are_asked_with_their_own_flags_and_the_key() -> None:
    asked = replace(
        settings(http_port=70_000),
        device="no such device",
        api_key="two words",
        worker_options={"max-num-seqs": 0},
        gateway_options={"policy": "nonsense"},
    )
    seqs, key, policy = probe_services(asked)
    # Both workers say it, and it is said once.
    assert seqs.startswith("--max-num-seqs: ")
    assert "printable ASCII" in key
    assert policy.startswith("--policy: unknown policy 'nonsense'")


@pytest.mark.parametrize(
    ("device", "options", "said"),
    [
        ("mock:zero", {"quantization": "int4"}, "--quantization: mock devices"),
        ("cuda", {"kv-cache-dtype": "int8"}, "--kv-cache-dtype: KV in int8"),
        ("cpu:4000", {"max-model-len": 200_000}, "--max-model-len: 200000 is more"),
    ],
)
def test_services_are_asked_about_their_device(
    device: str, options: dict[str, str | int | float | None], said: str
) -> None:
    """Whichever cores and GPUs there are."""
    (text,) = probe_services(replace(settings(20001), device=device, worker_options=options))
    assert text.startswith(said)


def test_services_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "PREFLIGHT", (*PYTHON, "tandem.no_such_module"))
    (text,) = probe_services(settings(20001))
    assert text.startswith("cannot be checked: ")
    assert "no_such_module" in text


def test_a_taken_port_names_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        port = probe_ports(settings(number))["--http-port"]
    assert not port.is_free
    assert "python" in port.owner
    assert "(pid " in port.owner
    assert port.next_free is not None
    assert port.next_free > number


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("python3 -P -m gateway --api-key KEY", "python3 -P -m gateway"),
        (
            "/opt/bin/python3.11 /opt/bin/tandem up --api-key KEY",
            "/opt/bin/python3.11 /opt/bin/tandem",
        ),
        ("python -c KEY", "python"),
        ("node server.js --token KEY", "node"),
        ("", ""),
    ],
)
def test_of_an_owner_nothing_is_told_where_keys_may_stand(command: str, program: str) -> None:
    assert " ".join(program_of(command.split())) == program


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({"docker compose": "2.40.1"}, "2.40.1"),
        ({"docker-compose": "1.29.2"}, "1.29.2 (docker-compose)"),
        ({}, ""),
    ],
)
def test_which_command_composes(
    here: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(command: list[str], _: float) -> Answer:
        text = here.get(" ".join(command[:-2]), "")
        return Answer(text, "" if text else "exit status 1")

    monkeypatch.setattr(probe, "ask", ask)
    assert probe._compose_version() == said


def test_docker_that_is_late_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine."""
    for name in ("docker", "docker-compose"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(probe, "DOCKER_TIMEOUT_S", 0.1)
    late = "no answer within 0.1 s"
    assert probe._docker() == Docker("", f"({late})", late)


def test_a_port_that_is_none() -> None:
    assert probe_ports(settings(20001))["--grpc-port"].error == "0 is no port"


def test_a_host_that_is_another_machine() -> None:
    ports = probe_ports(replace(settings(20001), host="192.0.2.1", grpc_port=20002))
    assert {each.error.partition(":")[0] for each in ports.values()} == {
        "192.0.2.1 is no address of this machine"
    }
    assert all(each.is_elsewhere for each in ports.values())


def test_one_port_for_two_servers() -> None:
    ports = probe_ports(replace(settings(20001), grpc_port=20001))
    assert ports["--http-port"].error == ""
    assert ports["--grpc-port"].error.startswith("--http-port and --grpc-port are both 20001")
    assert not ports["--grpc-port"].is_free


def test_too_few_ports_for_the_workers() -> None:
    assert probe_worker_ports(settings(20001, port_base=65535)) == ()


@pytest.mark.skipif(sys.platform != "linux", reason="ONLY LINUX HAS THE NAMES THAT CLAIM PORTS")
def test_ports_that_a_fleet_has_claimed_are_not_free_for_another() -> None:
    wanted = settings(20001, port_base=free_port())
    with claimed_ports(WORKER_HOST, wanted.port_base, 1, set()) as claimed:
        assert not set(claimed) & set(probe_worker_ports(wanted))


def test_a_folder_that_is_yet_to_be_made(tmp_path: Path) -> None:
    folder = probe_folder(tmp_path / "a" / "b")
    assert (folder.path, folder.exists_at) == (str(tmp_path / "a" / "b"), str(tmp_path))
    assert folder.is_writable
    assert folder.free_bytes > 0


def test_a_folder_that_cannot_be_seen(tmp_path: Path) -> None:
    """As another user's."""
    folder = probe_folder(tmp_path / ("x" * 300) / "logs")
    assert folder.exists_at == str(tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    assert not probe_folder(tmp_path / "cache" / "models").is_writable


def test_the_default_model_before_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))
    assert probe_model("default") is DEFAULT_MODEL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.model
def test_what_is_known_of_the_default_model_is_right() -> None:
    folder = resolve("default")
    real = probe_model("default")
    assert isinstance(real, storage.Model)
    assert real.is_here
    for name in ("name", "num_layers", "num_kv_heads", "head_dim", "max_model_len"):
        assert getattr(real, name) == getattr(DEFAULT_MODEL, name)
    assert real.checkpoint_bytes == pytest.approx(DEFAULT_MODEL.checkpoint_bytes, rel=0.01)
    assert folder.weight_bytes < DEFAULT_MODEL.import_bytes
