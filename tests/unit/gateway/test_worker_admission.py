"""Which workers a gateway takes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from gateway.dispatcher import Dispatcher
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.timeline import Timeline
from tandem.core.errors import Mismatch
from tandem.core.kv import KVLayout
from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole

MODEL = "f" * 32


@pytest.mark.parametrize(
    ("gateways", "workers", "is_taken"),
    [("a", "a", True), ("a", "b", False), ("a", "", True), ("", "b", True)],
)
def test_a_worker_with_another_tokenizer_is_refused(
    gateways: str, workers: str, is_taken: bool
) -> None:
    dispatcher = Dispatcher(
        Scheduler(queue_policy("fcfs"), Limits()),
        (),
        MODEL,
        Timeline(),
        tokenizer_fingerprint=gateways,
    )
    model = ModelInfo(
        "tiny", MODEL, 256, 2048, frozenset(), "kernels", tokenizer_fingerprint=workers
    )
    layout = KVLayout(2, 2, 8, 16, "float32")
    info = WorkerInfo("p", WorkerRole.PREFILL, 1, model, layout, 100, 16, "cpu")
    expected = pytest.raises(Mismatch, match=r"p has another tokenizer\.json than this gateway")
    with nullcontext() if is_taken else expected:
        dispatcher.admits(info)
