from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from time import monotonic, sleep

import pytest
import torch

from tandem.artifacts.model_folder import ModelFolder
from tandem.bench.ports import free_port
from tandem.core.errors import ConfigError
from tandem.core.worker import WorkerRole
from tandem.engine.protocols import Engine
from tandem.worker import service
from tandem.worker.engines import build_engine
from tandem.worker.settings import WorkerSettings


def thread_ids() -> set[str]:
    """Of this process's threads, also those that Python did not start."""
    return set(os.listdir("/proc/self/task"))


@pytest.mark.skipif(sys.platform != "linux", reason="ONLY LINUX LISTS A PROCESS'S THREADS")
def test_threads_that_loading_computes_on_do_not_outlive_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With those of the engine's own thread they would be too many: OpenMP would put all to sleep
    whenever they wait."""
    team: set[str] = set()

    def build(settings: WorkerSettings, folder: ModelFolder) -> Engine:
        before = thread_ids()
        torch.set_num_threads(3)
        torch.ones(2**20).add_(1)
        team.update(thread_ids() - before)
        return build_engine(settings, folder)

    monkeypatch.setattr(service, "build_engine", build)
    settings = WorkerSettings(port=free_port(), device="mock:l4", model="mock")
    service.load_worker(settings, WorkerRole.DECODE, None)
    assert len(team) == 2
    end = monotonic() + 10
    while team & thread_ids() and monotonic() < end:
        sleep(0.01)
    assert not team & thread_ids()


def test_a_part_of_the_cores_has_their_names_from_the_start_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices = []

    def build(settings: WorkerSettings, folder: ModelFolder) -> Engine:
        devices.append(settings.device)
        return build_engine(settings.model_copy(update={"device": "mock:l4"}), folder)

    monkeypatch.setattr(service, "build_engine", build)
    monkeypatch.setattr(service, "usable_cores", lambda: [0, 4, 1, 5])
    monkeypatch.setattr(service, "_bind_to_cores", lambda device: devices.append(str(device)))
    settings = WorkerSettings(port=free_port(), device="cpu:2/2", model="mock")
    info, _ = service.load_worker(settings, WorkerRole.DECODE, None)
    assert [*devices, info.device] == ["cpu:1,5"] * 3


def test_a_port_in_use_is_told_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[WorkerSettings] = []
    monkeypatch.setattr(service, "build_engine", lambda settings, folder: loads.append(settings))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = WorkerSettings(port=port, device="mock:l4", model="mock")
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: Address already") as caught:
            service.load_worker(settings, WorkerRole.DECODE, None)
    assert caught.value.param == "port"
    assert not loads


LOADING = """
import sys
from time import sleep
from tandem.core.worker import WorkerRole
from tandem.process.lifetime import begin
from tandem.worker import service
from tandem.worker.settings import WorkerSettings

def build(settings, folder):
    print("loading", flush=True)
    sleep(60)

begin()
service.build_engine = build
settings = WorkerSettings(port=int(sys.argv[1]), device="mock:l4", model="mock")
service.load_worker(settings, WorkerRole.DECODE, None)
"""


def test_a_signal_does_not_wait_for_a_model_that_loads() -> None:
    command = (sys.executable, "-c", LOADING, str(free_port()))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "loading\n"
        process.terminate()
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
