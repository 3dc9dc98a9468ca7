"""All workers, as the gateway sees them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from gateway.decode_view import DecodeView
from gateway.prefill_view import PrefillView
from gateway.prefix_index import PromptPrefix
from gateway.step_times import Pace
from tandem.core.errors import Mismatch, NotFound
from tandem.core.worker import ModelInfo, WorkerInfo, WorkerRole

if TYPE_CHECKING:
    from gateway.generation import Generation
    from gateway.tokens import TokenRequest


@dataclass(slots=True, eq=False)
class Fleet:
    """All workers that have joined, by role and id."""

    prefill: dict[str, PrefillView] = field(default_factory=dict)
    decode: dict[str, DecodeView] = field(default_factory=dict)

    @property
    def workers(self) -> list[PrefillView | DecodeView]:
        return [*self.prefill.values(), *self.decode.values()]

    @property
    def kv_models(self) -> frozenset[ModelInfo]:
        """What those run whose KV may be in a cache."""
        return frozenset[ModelInfo]().union(*(each.met for each in self.workers))

    def join(self, worker: PrefillView | DecodeView) -> None:
        """A worker is there."""
        worker.met.add(worker.info.model)
        for other in self.workers:
            worker.met.add(other.info.model)
            other.met.add(worker.info.model)
        if isinstance(worker, PrefillView):
            self.prefill[worker.info.worker_id] = worker
        else:
            self.decode[worker.info.worker_id] = worker

    def leave(self, worker_id: str) -> PrefillView | DecodeView | None:
        """A worker is gone: who that was, if it was there."""
        return self.prefill.pop(worker_id, None) or self.decode.pop(worker_id, None)

    @property
    def block_size(self) -> int | None:
        """That of all workers; None if there are none."""
        return next((each.info.layout.block_size for each in self.workers), None)

    def prefix_of(self, request: TokenRequest) -> PromptPrefix | None:
        """What names the blocks of a prompt; None if there are no workers."""
        block_size = self.block_size
        if block_size is None:
            return None
        if request.prefix and request.prefix.block_size == block_size:
            return request.prefix
        return PromptPrefix(request.prompt_token_ids, block_size, request.prefix_salt)

    def of(self, worker_id: str) -> PrefillView | DecodeView:
        """A worker that has joined."""
        return self.prefill.get(worker_id) or self.decode[worker_id]

    def require(self, worker_id: str) -> PrefillView | DecodeView:
        """A worker that an operator has named. Raises `NotFound`."""
        worker = self.prefill.get(worker_id) or self.decode.get(worker_id)
        if worker is None:
            raise NotFound(
                f"there is no worker named {worker_id!r:.80}: `tandem workers` lists them",
                param="worker_id",
            )
        return worker

    def check(self, info: WorkerInfo) -> None:
        """Raise `Mismatch`, naming what differs, if a worker does not fit those that are there."""
        for worker in self.workers:
            if worker.info.worker_id == info.worker_id:
                raise Mismatch(f"there is a worker named {info.worker_id} already")
            if misfit := worker.info.misfit(info):
                raise Mismatch(misfit)

    def has_open(self, role: WorkerRole) -> bool:
        """Whether there is a worker of the role that may be given something new."""
        return any(each.is_open for each in self._with_role(role))

    def has_all_open(self, roles: Iterable[WorkerRole]) -> bool:
        return all(map(self.has_open, roles))

    def cached_tokens(self, generation: Generation) -> int:
        """Leading tokens of a prompt that some worker has cached which does not drain."""
        return _most_cached(self.workers, generation)

    def cached_where_computed(self, generation: Generation) -> int:
        """Likewise, some worker that computes prompts: a prefill worker as long as one is open. It
        computes anew what only decode workers have cached: KV is not moved back."""
        workers = self.prefill if self.has_open(WorkerRole.PREFILL) else self.decode
        return _most_cached(workers.values(), generation)

    def token_s(self) -> float:
        """Seconds that a prompt token takes where it takes least; 0 while nothing is known. Decode
        workers count only where they compute all: from few tokens little is learned."""
        times = (worker.step_times.token_s for worker in self._computing)
        return min(filter(None, times), default=0.0)

    def least_token_s(self) -> float:
        """Likewise, or what one of a step's tokens was ever seen to take, if that is less: no more
        than it takes once nothing disturbs the worker, however slow that was when it last computed
        any. 0 while one step is all that is known."""
        times = (worker.step_times for worker in self._computing)
        known = (each for each in times if each.num_prompt_steps > 1)
        least = (min(each.token_s, each.least_token_s) for each in known)
        return min(filter(None, least), default=0.0)

    def step_s(self) -> float:
        """Likewise, seconds of a step beside its prompt tokens."""
        times = (worker.step_times.base_s for worker in self._computing)
        return min(filter(None, times), default=0.0)

    @property
    def caches_prefixes(self) -> bool:
        """Whether those that compute most prompts keep what begins alike for others."""
        return all(worker.info.caches_prefixes for worker in self._computing)

    @property
    def _computing(self) -> Collection[PrefillView | DecodeView]:
        """Who computes most prompts."""
        return self.prefill.values() or self.decode.values()

    def pace(self) -> Pace:
        """How long prompt tokens take. The least is that of prefill workers: it is not known of a
        fleet without."""
        times = (worker.step_times.least_token_s for worker in self.prefill.values())
        least_s = min(times, default=inf)
        return Pace(self.token_s(), least_s if least_s < inf else 0.0)

    def decode_share(self, tenant: str) -> float:
        """What a tenant holds of the decode workers that do not drain: of their places for
        sequences, or of their blocks, whichever is more."""
        return self.decode_shares()(tenant)

    def decode_shares(self) -> Callable[[str], float]:
        """What says so of any tenant, as long as nothing happens."""
        workers = [worker for worker in self.decode.values() if not worker.is_draining]
        num_seqs = sum(worker.info.max_num_seqs for worker in workers)
        num_blocks = sum(worker.info.num_blocks for worker in workers)

        def held(tenant: str) -> float:
            held_seqs = sum(worker.tenant_seqs[tenant] for worker in workers)
            held_blocks = sum(worker.tenant_blocks[tenant] for worker in workers)
            return max(held_seqs / num_seqs, held_blocks / num_blocks)

        return held if num_seqs and num_blocks else lambda tenant: 0.0

    def missing(self, roles: Iterable[WorkerRole]) -> WorkerRole | None:
        """The first of `roles` that has no worker, or only such as drain; or None."""
        return next((role for role in roles if not self._has_any(role)), None)

    def sets_pace(self, worker: PrefillView | DecodeView) -> bool:
        """Whether `pace` depends on a worker's steps."""
        return isinstance(worker, PrefillView) or not self.prefill

    def _has_any(self, role: WorkerRole) -> bool:
        return not all(each.is_draining for each in self._with_role(role))

    def _with_role(self, role: WorkerRole) -> Collection[PrefillView | DecodeView]:
        return self.prefill.values() if role is WorkerRole.PREFILL else self.decode.values()


def _most_cached(workers: Iterable[PrefillView | DecodeView], generation: Generation) -> int:
    """Leading tokens of a prompt that one of the workers has cached which does not drain."""
    return max(
        (each.cached_tokens(generation) for each in workers if not each.is_draining), default=0
    )
