"""Workers that nobody runs, as they describe themselves."""

from __future__ import annotations

from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole
from tandem.engine.fake.content import fake_layout

MODEL = ModelInfo("fake", "f" * 64, 256, 2048, frozenset(), "fake")


def fake_worker(
    worker_id: str = "d", role: WorkerRole = WorkerRole.DECODE, epoch: int = 1
) -> WorkerInfo:
    return WorkerInfo(worker_id, role, epoch, MODEL, fake_layout(16), 64, 8, "none")
