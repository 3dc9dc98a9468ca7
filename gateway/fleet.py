"""The workers, as the gateway sees them. A worker's own accounting is authoritative; these are
hints, kept so that what is asked of a worker is not refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.step_times import StepTimes
from tandem.core.errors import Mismatch
from tandem.core.kv import Plane
from tandem.core.worker import WorkerInfo, WorkerRole

if TYPE_CHECKING:
    from gateway.generation import Generation

# One batch runs, one waits behind it.
MAX_BATCHES = 2
# Of a prefill worker's pool, for prompts that go to one and the same decode worker.
MAX_DESTINATION_SHARE = 0.5


@dataclass(slots=True, eq=False)
class WorkerView:
    """What both roles have: identity, the blocks that the gateway's sequences take there, and how
    long steps take. One that is `suspect` may be lost, and takes nothing new."""

    info: WorkerInfo
    address: str
    suspect: bool = False
    num_used_blocks: int = 0
    generations: dict[int, Generation] = field(default_factory=dict)
    step_times: StepTimes = field(default_factory=StepTimes)

    def stepped(self, num_prompt_tokens: int, seconds: float) -> None:
        """A step with so many prompt tokens took so long."""
        self.step_times.observe(num_prompt_tokens, seconds)

    def blocks_for(self, num_tokens: int) -> int:
        return self.info.layout.blocks_for(num_tokens)

    def has_room(self, num_tokens: int) -> bool:
        """Whether one more sequence of this many tokens can be held."""
        return (
            not self.suspect
            and len(self.generations) < self.info.max_num_seqs
            and self.num_used_blocks + self.blocks_for(num_tokens) <= self.info.num_blocks
        )

    def can_ever_hold(self, num_tokens: int) -> bool:
        """Whether the worker, were it empty, would have room for a sequence of so many tokens."""
        return self.blocks_for(num_tokens) <= self.info.num_blocks

    def enter(self, generation: Generation, num_tokens: int) -> None:
        self.generations[generation.sequence_id] = generation
        self.num_used_blocks += self.blocks_for(num_tokens)

    def leave(self, generation: Generation, num_tokens: int) -> None:
        if self.generations.pop(generation.sequence_id, None):
            self.num_used_blocks -= self.blocks_for(num_tokens)


@dataclass(slots=True, eq=False)
class FormingBatch:
    """A batch whose reservations are not all answered. `chunks` are (generation, start, end)."""

    chunks: list[tuple[Generation, int, int]] = field(default_factory=list)
    unanswered: set[int] = field(default_factory=set)

    @property
    def num_tokens(self) -> int:
        return sum(end - start for _, start, end in self.chunks)


@dataclass(slots=True, eq=False)
class PrefillView(WorkerView):
    """A prefill worker. `batches` are what it runs or has waiting, by id, in tokens. `failed_edges`
    are decode workers that it could not reach of late, and until when they are avoided;
    `bound_blocks` counts the blocks of prompts by the decode worker that they are bound for."""

    batches: dict[int, int] = field(default_factory=dict)
    forming: FormingBatch | None = None
    failed_edges: dict[str, float] = field(default_factory=dict)
    bound_blocks: Counter[str] = field(default_factory=Counter)

    @property
    def has_slot(self) -> bool:
        return not self.suspect and self.forming is None and len(self.batches) < MAX_BATCHES

    def forgive_edges(self, now: float) -> None:
        """Forget the failures that are long enough ago."""
        if self.failed_edges:
            self.failed_edges = {
                name: until for name, until in self.failed_edges.items() if until > now
            }

    def may_send_to(self, decode_worker: str, num_tokens: int) -> bool:
        """Whether one more prompt of so many tokens may go to a decode worker: what is on the way
        to one keeps to its share of the pool, or a slow one would in time hold all of it."""
        num_blocks = self.bound_blocks[decode_worker]
        limit = MAX_DESTINATION_SHARE * self.info.num_blocks
        return num_blocks == 0 or num_blocks + self.blocks_for(num_tokens) <= limit

    @property
    def queued_batches(self) -> list[int]:
        """Tokens of each batch that it runs or will run."""
        forming = [self.forming.num_tokens] if self.forming and self.forming.chunks else []
        return [*self.batches.values(), *forming]

    @property
    def num_queued_tokens(self) -> int:
        return sum(self.queued_batches)

    @property
    def queued_s(self) -> float:
        """In how many seconds it will have run all its batches."""
        return sum(map(self.step_times.seconds, self.queued_batches))

    def enter(self, generation: Generation, num_tokens: int) -> None:
        WorkerView.enter(self, generation, num_tokens)
        self.bound_blocks[generation.decode_worker] += self.blocks_for(num_tokens)

    def leave(self, generation: Generation, num_tokens: int) -> None:
        if generation.sequence_id in self.generations:
            self.bound_blocks[generation.decode_worker] -= self.blocks_for(num_tokens)
        WorkerView.leave(self, generation, num_tokens)
        if forming := self.forming:
            forming.chunks = [each for each in forming.chunks if each[0] is not generation]
            forming.unanswered.discard(generation.sequence_id)


@dataclass(slots=True, eq=False)
class DecodeView(WorkerView):
    """A decode worker. `num_refused_blocks`: it refused a reservation of so many blocks, and was
    not heard to have them since; 0 if it refused none. `prefill_token_budget` is what its step rule
    says, if it was told one to compute prompts by. `tenant_seqs` and `tenant_blocks` are what each
    tenant holds."""

    num_refused_blocks: int = 0
    prefill_token_budget: int = 0
    tenant_seqs: Counter[str] = field(default_factory=Counter)
    tenant_blocks: Counter[str] = field(default_factory=Counter)

    @property
    def num_prompt_tokens_left(self) -> int:
        """Tokens of the prompts that it computes itself, and has yet to."""
        return sum(each.num_tokens_left for each in self._own_prompts())

    def stepped(self, num_prompt_tokens: int, seconds: float) -> None:
        """Prompts are computed in the order in which they came."""
        WorkerView.stepped(self, num_prompt_tokens, seconds)
        if num_prompt_tokens:
            for generation in self._own_prompts():
                num_tokens = min(num_prompt_tokens, generation.num_tokens_left)
                generation.num_scheduled += num_tokens
                num_prompt_tokens -= num_tokens

    def _own_prompts(self) -> Iterator[Generation]:
        return (each for each in self.generations.values() if each.is_local and not each.armed)

    def has_room(self, num_tokens: int) -> bool:
        return not self.num_refused_blocks and WorkerView.has_room(self, num_tokens)

    def enter(self, generation: Generation, num_tokens: int) -> None:
        WorkerView.enter(self, generation, num_tokens)
        self._hold(generation, 1, self.blocks_for(num_tokens))

    def leave(self, generation: Generation, num_tokens: int) -> None:
        if generation.sequence_id in self.generations:
            self._hold(generation, -1, -self.blocks_for(num_tokens))
        WorkerView.leave(self, generation, num_tokens)
        self.num_refused_blocks = 0

    def _hold(self, generation: Generation, num_seqs: int, num_blocks: int) -> None:
        self.tenant_seqs[generation.request.tenant] += num_seqs
        self.tenant_blocks[generation.request.tenant] += num_blocks

    def kv_bytes(self, num_tokens: int) -> int:
        """Bytes of the KV of this many tokens."""
        layout = self.info.layout
        return num_tokens * layout.token_bytes * layout.num_layers * len(Plane)


@dataclass(slots=True, eq=False)
class Fleet:
    """All workers that have joined, by role and id."""

    prefill: dict[str, PrefillView] = field(default_factory=dict)
    decode: dict[str, DecodeView] = field(default_factory=dict)

    @property
    def workers(self) -> list[PrefillView | DecodeView]:
        return [*self.prefill.values(), *self.decode.values()]

    def of(self, worker_id: str) -> PrefillView | DecodeView:
        """A worker that has joined."""
        return self.prefill.get(worker_id) or self.decode[worker_id]

    def check(self, info: WorkerInfo) -> None:
        """Raise `Mismatch`, naming what differs, if a worker does not fit those that are there."""
        for worker in self.workers:
            if worker.info.worker_id == info.worker_id:
                raise Mismatch(f"there is a worker named {info.worker_id} already")
            if misfit := worker.info.misfit(info):
                raise Mismatch(misfit)

    def has_trusted(self, role: WorkerRole) -> bool:
        """Whether there is a worker of the role that is not suspected."""
        return any(each.info.role is role and not each.suspect for each in self.workers)

    def token_s(self) -> float:
        """Seconds that a prompt token takes where it takes least; 0 while nothing is known. Decode
        workers count only where they compute all: from few tokens little is learned."""
        workers = self.prefill or self.decode
        times = (worker.step_times.token_s for worker in workers.values())
        return min(filter(None, times), default=0.0)

    def decode_share(self, tenant: str) -> float:
        """What a tenant holds of all decode workers: of their places for sequences, or of their
        blocks, whichever is more."""
        workers = self.decode.values()
        num_seqs = sum(worker.info.max_num_seqs for worker in workers)
        num_blocks = sum(worker.info.num_blocks for worker in workers)
        if not num_seqs or not num_blocks:
            return 0.0
        held_seqs = sum(worker.tenant_seqs[tenant] for worker in workers)
        held_blocks = sum(worker.tenant_blocks[tenant] for worker in workers)
        return max(held_seqs / num_seqs, held_blocks / num_blocks)

    def missing(self, roles: Iterable[WorkerRole]) -> WorkerRole | None:
        """The first of `roles` that has no worker, or None."""
        present = {worker.info.role for worker in self.workers}
        return next((role for role in roles if role not in present), None)
