"""A scheduler, told what happens and asked what it wants, step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sim_worker import worker_info

from gateway.effects import Emit, Send
from gateway.generation import Generation
from gateway.scheduler import Scheduler
from gateway.tokens import TokenRequest
from gateway.worker_view import PoolUse
from tandem.core.reports import Reserved, Span, SpanKind, StepDone
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerRole


class SchedulerDriver:
    """Its time is `now`. Workers that join have a pool of `num_blocks`, and places for
    `max_num_seqs`, each."""

    now = 0.0

    def __init__(
        self, scheduler: Scheduler, *, num_blocks: int = 1000, max_num_seqs: int = 16
    ) -> None:
        self.scheduler = scheduler
        self.num_blocks = num_blocks
        self._max_num_seqs = max_num_seqs

    def join(self, name: str, role: WorkerRole, **details: Any) -> None:
        """`details` are those in which it is not like all others here."""
        info = worker_info(name, role, 1, self.num_blocks, self._max_num_seqs)
        self.scheduler.worker_joined(replace(info, **details), f"{name}:1")

    def stepped(
        self, name: str, num_prefill_tokens: int, seconds: float, num_seqs: int = 1
    ) -> None:
        """A step of so many prompt tokens, and one of each of so many sequences."""
        span = Span(
            SpanKind.STEP,
            0,
            int(seconds * 1e9),
            num_tokens=num_prefill_tokens + num_seqs,
            num_prefill_tokens=num_prefill_tokens,
        )
        self.scheduler.heard(name, PoolUse(self.num_blocks), self.now, [span])

    def submit(self, name: str = "r", length: int = 4, max_tokens: int = 5) -> Generation:
        return self.submit_prompt(name, (5,) * length, max_tokens)

    def submit_prompt(
        self, name: str, prompt: tuple[int, ...], max_tokens: int = 5, **details: Any
    ) -> Generation:
        params = SamplingParams(max_tokens=max_tokens, seed=0)
        return self.scheduler.submit(TokenRequest(name, prompt, params, **details), self.now)

    def effects(self) -> list[Any]:
        self.scheduler.compose()
        return self.scheduler.take_effects()

    def commands(self, kind: type[Any], worker_id: str | None = None) -> list[Any]:
        """All of a kind, or what one worker is told of it."""
        return [
            each.command
            for each in self.effects()
            if isinstance(each, Send)
            and isinstance(each.command, kind)
            and worker_id in (None, each.worker_id)
        ]

    def events(self) -> list[Any]:
        return [each.event for each in self.effects() if isinstance(each, Emit)]

    def grant(self, generation: Generation, num_cached_tokens: int = 0) -> None:
        """Its decode worker has the blocks."""
        grant = Reserved(generation.sequence_id, b"x", 1, num_cached_tokens)
        self.scheduler.report(generation.decode_worker, grant)

    def step(self, *generations: Generation, reason: FinishReason | None = None) -> None:
        """A step of their decode worker gives each of them its next token."""
        ids = tuple(each.sequence_id for each in generations)
        positions = tuple(each.num_prompt_tokens + len(each.token_ids) for each in generations)
        count = len(generations)
        done = StepDone(1, 0, 0, ids, positions, (60,) * count, (reason,) * count)
        self.scheduler.report(generations[0].decode_worker, done)
