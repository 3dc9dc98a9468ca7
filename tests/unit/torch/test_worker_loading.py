from __future__ import annotations

import os
import sys
import threading
from time import monotonic, sleep

import pytest
import torch

from tandem.artifacts.model_folder import ModelFolder
from tandem.core.worker import WorkerRole
from tandem.engine.protocols import Engine
from tandem.worker import service
from tandem.worker.engines import build_engine
from tandem.worker.settings import WorkerSettings


def num_foreign_threads() -> int:
    """Of this process, those that Python did not start."""
    return len(os.listdir("/proc/self/task")) - threading.active_count()


@pytest.mark.skipif(sys.platform != "linux", reason="ONLY LINUX LISTS A PROCESS'S THREADS")
def test_threads_that_loading_computes_on_do_not_outlive_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside those of the engine's own thread they would be too many, and OpenMP would no longer let
    any wait awake."""
    while_loading = []

    def build(settings: WorkerSettings, folder: ModelFolder) -> Engine:
        torch.set_num_threads(3)
        torch.ones(2**20).add_(1)
        while_loading.append(num_foreign_threads())
        return build_engine(settings, folder)

    monkeypatch.setattr(service, "build_engine", build)
    before = num_foreign_threads()
    settings = WorkerSettings(port=1, device="mock:l4", model="mock")
    service.load_worker(settings, WorkerRole.DECODE, None)
    assert while_loading == [before + 2]
    end = monotonic() + 10
    while num_foreign_threads() > before and monotonic() < end:
        sleep(0.01)
    assert num_foreign_threads() == before
