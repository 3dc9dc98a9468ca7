"""What is simulated: the gateway, its workers and its clients, and how they are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from sim_client import Client
from sim_clock import Clock
from sim_faults import Faults
from sim_gateway import RecordingDispatcher
from sim_link import SimLink
from sim_requests import RandomRequests, some_tenants
from sim_transfer import SimTransfers, Transfer
from sim_worker import (
    BLOCK_SIZE,
    MAX_MODEL_LEN,
    MODEL,
    DecodeProcess,
    PrefillProcess,
    Process,
    worker_info,
)

from gateway.colocated_policies import colocated_policy
from gateway.generation import Generation
from gateway.local_prefill import LocalPrefillMode
from gateway.output_lengths import MIN_OBSERVED
from gateway.policies import POLICIES, queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.stages import AttemptEnd
from gateway.tokens import ServedBy, ServingMode
from tandem.core.worker import WorkerInfo, WorkerRole


class System:
    """One of many shapes, with all its workers connected. Its clients are `num_to_come`;
    `failed_ids` name the sequences that were in a failed step."""

    def __init__(
        self, random: Random, faults: Faults, policy: str | None, *, is_crowded: bool
    ) -> None:
        """With a `policy`'s name, decode workers alone serve. Else these compute some prompts, in
        two thirds of the scenarios. Where it `is_crowded` many come, more are let in than there are
        blocks for, and some can be parked."""
        self.random = random
        modes: Sequence[LocalPrefillMode] = ("off",) if policy else ("auto", "idle", "off")
        self.local_prefill = random.choice(modes)
        self.prefix_caching = random.random() < 0.75
        self.max_parked_bytes = random.choice((10**3, 10**9) if is_crowded else (0, 10**3, 10**9))
        self._clock = Clock(random)
        self.tenants = some_tenants(random)
        self.self_check_rate = random.choice((0.0, 1.0))
        self.faults = faults
        self.is_crowded = is_crowded
        self.clients: dict[str, Client] = {}
        self.failed_ids: set[int] = set()
        self.requests = RandomRequests(random, faults, self.tenants, self.clients, self._clock)
        self._transfers: list[SimTransfers] = []
        self.num_to_come = 8 if is_crowded else random.randint(1, 8)
        self._next_epoch = 0
        limits = Limits(random.choice((4, 8, 16, 64)), random.choice((1, 2, 8)))
        colocated = policy and colocated_policy(
            policy, limits.max_batch_tokens, random.choice((1, 3, 8))
        )
        self.scheduler = Scheduler(
            queue_policy(random.choice(tuple(POLICIES))),
            limits,
            colocated=colocated or None,
            local_prefill=self.local_prefill,
            tenants=self.tenants,
            self_check_rate=self.self_check_rate,
        )
        if random.random() < 0.5:
            # Here few prompts are long enough for it.
            self.scheduler._queue._shared._is_worth_it = lambda *_: True  # type: ignore[method-assign]
        self.dispatcher = RecordingDispatcher(self.scheduler, self.clients, self._clock)
        for _ in range(MIN_OBSERVED if is_crowded else random.choice((0, MIN_OBSERVED))):
            # Far too few are expected: there will be preemptions.
            self.scheduler._lifecycle.lengths.observe(random.randint(1, 2))
        num_prefill = 0 if policy else random.randint(1, 2)
        self.links = [self._link(WorkerRole.PREFILL, n) for n in range(num_prefill)]
        self.links += [self._link(WorkerRole.DECODE, n) for n in range(random.randint(1, 3))]
        for link in self.links:
            link.connect()

    def _link(self, role: WorkerRole, number: int) -> SimLink:
        worker_id = f"{role.name.lower()}-{number}"
        num_blocks = self.random.randint(5, 7)
        max_num_seqs = self.random.choice((4,) if self.is_crowded else (1, 2, 4, 4))
        # A small prefill worker takes no long ones, where others compute what it cannot.
        is_short = role is WorkerRole.PREFILL and self.local_prefill != "off" and num_blocks == 5
        model = replace(MODEL, max_model_len=10 if is_short else MAX_MODEL_LEN)

        def start() -> Process:
            self._next_epoch += 1
            info = worker_info(worker_id, role, self._next_epoch, num_blocks, max_num_seqs, model)
            return self._start(replace(info, caches_prefixes=self.prefix_caching))

        link = SimLink(self.dispatcher, start, self._clock)
        self.dispatcher._links[link.address] = link  # type: ignore[assignment]
        return link

    def _start(self, info: WorkerInfo) -> Process:
        if info.role is WorkerRole.DECODE:
            return DecodeProcess(
                info,
                lambda request_id: self.clients[request_id].end,
                self.max_parked_bytes,
            )
        transfers = SimTransfers(self._find_decode)
        transfers.source = PrefillProcess(info, transfers)
        self._transfers.append(transfers)
        return transfers.source

    def _find_decode(self, address: str) -> DecodeProcess:
        (link,) = (link for link in self.links if link.address == address)
        assert isinstance(link.process, DecodeProcess)
        return link.process

    def open_clients(self) -> list[Client]:
        """Those whose requests have not ended."""
        return [each for each in self.clients.values() if each.outcome is None]

    def open_transfers(self) -> list[Transfer]:
        """Those that are not over."""
        for each in self._transfers:
            each.all = [transfer for transfer in each.all if not transfer.over]
        return [transfer for each in self._transfers for transfer in each.all]

    # How it went

    @property
    def num_parked(self) -> int:
        processes = (link.process for link in self.links)
        return sum(each.num_parked for each in processes if isinstance(each, DecodeProcess))

    @property
    def num_preemptions(self) -> int:
        return sum(each.num_preemptions for each in self._served)

    @property
    def num_losses(self) -> int:
        return sum(each.num_losses for each in self._served)

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that were not computed."""
        return sum(each.num_cached_tokens for each in self._served)

    @property
    def modes(self) -> set[ServingMode]:
        """How requests were served."""
        return {each.mode for each in self._served}

    @property
    def handed_over(self) -> list[Generation]:
        """Those that went on elsewhere because their worker was to let go of them."""
        let_in = (each.generation for each in self.clients.values() if each.generation)
        return [
            generation
            for generation in let_in
            if any(each.end is AttemptEnd.DRAINED for each in generation.attempts.kept)
        ]

    @property
    def _served(self) -> list[ServedBy]:
        return [each.served_by for each in self.clients.values() if each.served_by]


assert BLOCK_SIZE * 5 >= MAX_MODEL_LEN, "the smallest pool holds the longest sequence"
