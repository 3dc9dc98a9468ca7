"""What is asked of workers to place a prompt grows with their number, not with that of pairs."""

from __future__ import annotations

from itertools import product

import pytest
from sim_worker import worker_info

from gateway.decode_view import DecodeView
from gateway.local_prefill import LocalPrefillMode
from gateway.policies import queue_policy
from gateway.prefill_view import PrefillView
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.tokens import TokenRequest
from gateway.worker_view import PoolUse, WorkerView
from tandem.core.reports import Span, SpanKind
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import WorkerRole

# Of each worker: for the admission, for the decision where, and for the placing.
MAX_QUESTIONS = 8


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[WorkerView]:
    """Who was asked what a prompt would cost there, or whether there is room for it."""
    asked: list[WorkerView] = []
    for kind, name in ((PrefillView, "can_take"), (DecodeView, "can_take")):
        _spy(monkeypatch, kind, name, asked)
    _spy(monkeypatch, WorkerView, "uncached_tokens", asked)
    return asked


def _spy(
    monkeypatch: pytest.MonkeyPatch, kind: type[WorkerView], name: str, asked: list[WorkerView]
) -> None:
    original = getattr(kind, name)

    def ask(self: WorkerView, *args: object) -> object:
        asked.append(self)
        return original(self, *args)

    monkeypatch.setattr(kind, name, ask)


@pytest.mark.parametrize("num_free_blocks", [1000, 0])
@pytest.mark.parametrize("local_prefill", ["off", "idle", "auto"])
@pytest.mark.parametrize("num_each", [1, 32])
@pytest.mark.parametrize("is_prefill_busy", [False, True])
def test_questions_grow_with_the_workers(
    questions: list[WorkerView],
    is_prefill_busy: bool,
    num_each: int,
    local_prefill: LocalPrefillMode,
    num_free_blocks: int,
) -> None:
    """Also while no decode worker has room, when all are asked."""
    scheduler = Scheduler(queue_policy("fcfs"), Limits(64), local_prefill=local_prefill)
    roles = (WorkerRole.PREFILL, WorkerRole.DECODE)
    for role, number in product(roles, range(num_each)):
        name = f"{role.name.lower()}-{number}"
        scheduler.worker_joined(worker_info(name, role, 1, 1000, 64), f"{name}:1")
        steps = [
            Span(SpanKind.STEP, 0, 10**7 + 10**6 * num_tokens, num_prefill_tokens=num_tokens)
            for num_tokens in (0, 16, 64) * 10
        ]
        scheduler.heard(name, PoolUse(num_free_blocks), 0.0, steps)
    scheduler.compose()
    for worker in scheduler._fleet.prefill.values():
        worker.batches.update({1: 1000} if is_prefill_busy else {})
    questions.clear()

    request = TokenRequest("r", tuple(range(40)), SamplingParams(max_tokens=5, seed=0))
    generation = scheduler.submit(request)
    scheduler.compose()

    assert bool(generation.decode_worker) == bool(num_free_blocks)
    is_local = is_prefill_busy and local_prefill != "off" and num_free_blocks > 0
    assert generation.prefill_worker.startswith("decode") == is_local
    assert len(questions) <= MAX_QUESTIONS * 2 * num_each
