"""The whole system in one thread, without gRPC and without time.

The real `Dispatcher` and `Scheduler`, the real states of the workers and the fake engines; only
streams and transfers are replaced, by queues and generators that a random choice moves on. A
scenario is a function of its `Random` alone, so a failing seed fails again.

What a scenario checks as it goes: every token of every client against the fake engine's hand-worked
output, one terminal event for each generation, no error that nothing has caused, no sequence in a
step before its arming or after its end. What it checks at the end is in `check_quiet`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Any

from sim_transfer import SimTransfers, Transfer
from sim_worker import (
    BLOCK_SIZE,
    END_RULE,
    MAX_MODEL_LEN,
    MODEL,
    VOCAB_SIZE,
    DecodeProcess,
    PrefillProcess,
    Process,
    worker_info,
)

from gateway.batching import Limits
from gateway.colocated_policies import colocated_policy
from gateway.dispatcher import Dispatcher
from gateway.effects import Checked, CheckResult
from gateway.generation import Generation
from gateway.generation_streams import GenerationStreams
from gateway.output_lengths import MIN_OBSERVED
from gateway.policies import POLICIES, queue_policy
from gateway.scheduler import Scheduler
from gateway.stages import AttemptEnd
from gateway.tenants import DEFAULT_TENANT, Tenant, Tenants
from gateway.timeline import Timeline
from gateway.tokens import Ended, ServedBy, ServingMode, Token, TokenRequest
from gateway.worker_view import MAX_BATCHES, DecodeView, PrefillView
from tandem.core.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    RateLimitExceeded,
    TandemError,
    Unavailable,
)
from tandem.core.prefix_cache import CacheChanges
from tandem.core.sampling_params import SamplingParams
from tandem.core.sequence import FinishReason
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.engine.fake.content import expected_tokens
from tandem.v1 import worker_pb2
from tandem.wire.reports import cache_changes_to_wire

MAX_DRAIN = 20_000


@dataclass(frozen=True)
class Faults:
    """How likely a disturbance is instead of progress, or a request has a deadline, and which kinds
    there are."""

    rate: float = 0.0
    cancels: bool = True
    deadlines: bool = True
    breaks: bool = True
    losses: bool = True
    engine_failures: bool = True
    transfer_faults: bool = True
    drains: bool = True


@dataclass(eq=False)
class Client:
    """Who made a request, and what it should get. `excused`: something happened that it may fail
    for."""

    request: TokenRequest
    expected: list[int]
    reason: FinishReason
    generation: Generation | None = None
    tokens: list[int] = field(default_factory=list)
    outcome: Ended | TandemError | None = None
    served_by: ServedBy | None = None
    cancelled: bool = False
    excused: bool = False

    @property
    def end(self) -> int:
        return len(self.request.prompt_token_ids) + len(self.expected)

    def take(self, event: Token | Ended | TandemError) -> None:
        """An event comes. It is checked at once."""
        assert self.outcome is None, f"{event} came after {self.outcome}"
        if isinstance(event, Token):
            position = len(self.request.prompt_token_ids) + len(self.tokens)
            assert event.position == position, f"position {event.position} came for {position}"
            self.tokens.append(event.token_id)
            assert self.tokens == self.expected[: len(self.tokens)], "a token is wrong"
            return
        self.outcome = event
        if isinstance(event, Ended):
            assert self.tokens == self.expected, "tokens are missing"
            assert event.finish_reason is self.reason
            by = self.served_by = event.served_by
            is_whole = by.num_cached_tokens == len(self.request.prompt_token_ids)
            assert not is_whole or by.num_resumed_tokens, "the last token is always computed"
            if by.prefill_worker.startswith("decode"):
                assert (by.decode_worker, by.kv_bytes) == (by.prefill_worker, 0)
            elif not by.num_resumed_tokens:
                assert bool(by.decode_worker) is (len(self.expected) > 1), by
        elif event.reason == "CANCELLED":
            assert self.cancelled, "nobody cancelled"
        elif event.reason == "DEADLINE_EXCEEDED":
            assert self.request.deadline_s < inf, "there is no deadline"


@dataclass(frozen=True)
class Message:
    """From a worker to the gateway. With a `snapshot` it is the first of its stream."""

    applied_command: int
    num_free_blocks: int
    report_number: int
    reports: list[Any]
    spans: tuple[worker_pb2.Span, ...] = ()
    cache_changes: CacheChanges | None = None
    snapshot: Any = None
    draining_ms: int | None = None


class SimLink:
    """A `WorkerLink`, its stream, and whatever process is at the other end.

    A stream is `serving` once the gateway has read its snapshot; only then are commands sent.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        start: Callable[[], Process],
        clock: Clock,
    ) -> None:
        self.process = start()
        self.address = f"{self.process.info.worker_id}:1"
        self.info: WorkerInfo | None = None
        self.connected = False
        self.serving = False
        self.suspected = False
        self.leaving = False
        self.down: deque[tuple[int, list[Any]]] = deque()
        self.up: deque[Message] = deque()
        self.due: list[Any] = []
        self._start = start
        self._dispatcher = dispatcher
        self._clock = clock
        self._last_number = 0
        self._taken_report = 0
        self._unapplied: deque[tuple[int, list[Any]]] = deque()

    @property
    def name(self) -> str:
        return self.process.info.worker_id

    # The gateway's end

    def send(self, command: Any) -> None:
        assert self.info is not None, "a command for a worker that is lost"
        self.due.append(command)

    def write(self) -> None:
        """Number what is due, and send it."""
        self._last_number += 1
        batch, self.due = self.due, []
        self._unapplied.append((self._last_number, batch))
        self.down.append((self._last_number, batch))

    def read(self) -> None:
        """Take a message."""
        message = self.up.popleft()
        info = self.info
        assert info is not None
        while self._unapplied and self._unapplied[0][0] <= message.applied_command:
            self._unapplied.popleft()
        if self.suspected:
            self.suspected = False
            self._dispatcher.trusted(info)
        changes = message.cache_changes
        header = worker_pb2.WorkerHeader(
            num_free_blocks=message.num_free_blocks,
            spans=message.spans,
            prefix_cache=changes and cache_changes_to_wire(changes),
            draining_ms=message.draining_ms,
        )
        self._dispatcher.heard(info, header, self._clock.now_ns())
        if message.snapshot is not None:
            self._dispatcher.resumed(info, message.snapshot, self._unapplied_commands())
            self.down.extend(self._unapplied)
            self.serving = True
        if message.reports:
            self._dispatcher.reported(info, message.reports)
        self._taken_report = message.report_number

    def connect(self) -> None:
        """Take the stream up again; join anew if what the worker held is gone."""
        if self.info and not (self.info.epoch == self.process.info.epoch and self._has_lease):
            self.give_up()
        self.connected = True
        if self.info:
            self.process.state.acknowledge(self._taken_report)
            self.process.state.take_reports()
            snapshot = self.process.state.snapshot()
            self._say([], snapshot=snapshot)
            return
        if self.process.draining_ms is not None:
            # It has ended, since nobody held it any more.
            self.process = self._start()
        self.process.clear()
        self.process.state.take_reports()
        self.process.has_lease = True
        self.info = self.process.info
        self._last_number = 0
        self._taken_report = 0
        self.serving = True
        self._dispatcher.joined(self.info, self.address)
        # The snapshot of a worker that joins says only this.
        cache = cache_changes_to_wire(self.process.state.prefix_cache.take_whole())
        header = worker_pb2.WorkerHeader(num_free_blocks=self.info.num_blocks, prefix_cache=cache)
        self._dispatcher.heard(self.info, header, self._clock.now_ns())

    def _say(
        self,
        reports: list[Any],
        spans: tuple[worker_pb2.Span, ...] = (),
        snapshot: Any = None,
    ) -> None:
        process = self.process
        free = process.state.num_free_blocks
        number = process.state.report_number
        cache = process.state.prefix_cache
        changes = cache.take_changes() if snapshot is None else cache.take_whole()
        self.up.append(
            Message(
                process.applied_command,
                free,
                number,
                reports,
                spans,
                changes,
                snapshot,
                process.draining_ms,
            )
        )

    @property
    def _has_lease(self) -> bool:
        return self.process.has_lease

    def give_up(self) -> None:
        """The worker is lost, as far as the gateway can tell."""
        info = self._forget()
        self._dispatcher.lost(info, Unavailable(f"worker {info.worker_id} was lost"))

    def let_go(self) -> None:
        self.leaving = True

    def leave(self) -> None:
        """The goodbye arrives, or the stream breaks before it does: the process ends, and another
        starts in its place."""
        self._dispatcher.left(self._forget())
        self.process.alive = self.connected = self.serving = False
        self.process = self._start()
        self.down.clear()
        self.up.clear()
        self.connect()

    def _forget(self) -> WorkerInfo:
        """What is known of the worker is void."""
        assert self.info is not None
        info, self.info = self.info, None
        self.suspected = self.leaving = False
        self.due.clear()
        self._unapplied.clear()
        return info

    def _unapplied_commands(self) -> list[Any]:
        return [command for _, batch in self._unapplied for command in batch] + self.due

    # The wire, and the worker's end

    def deliver(self) -> None:
        """The worker gets a message."""
        self.process.apply(*self.down.popleft())

    def report(self) -> None:
        """The worker sends what happened; a heartbeat, if nothing did."""
        self.process.news = False
        reports = list(self.process.state.take_reports())
        steps, self.process.steps = self.process.steps, []
        self._say(reports, tuple(map(self._clock.step, steps)))

    def drain(self, draining_ms: int) -> None:
        """The process is told to end."""
        self.process.draining_ms = draining_ms
        self.process.news = True

    def break_stream(self) -> None:
        if self.leaving:
            self.leave()
            return
        self.connected = self.serving = False
        self.down.clear()
        self.up.clear()
        if self.info and not self.suspected:
            self.suspect()

    def suspect(self) -> None:
        """Nothing was heard of the worker, or its stream is broken: it gets nothing new."""
        assert self.info is not None
        self.suspected = True
        self._dispatcher.suspected(self.info)

    def kill(self) -> None:
        """The process dies, and another starts in its place."""
        self.process.alive = False
        self.process = self._start()
        self.break_stream()

    def expire(self) -> None:
        """The worker has not heard of the gateway for too long."""
        self.process.has_lease = False
        self.process.clear()
        self.break_stream()


class RecordingStreams(GenerationStreams):
    """Hand every event to its client as well."""

    clients: dict[str, Client]

    def emit(self, generation: Generation, event: Token | Ended | TandemError) -> None:
        self.clients[generation.request.request_id].take(event)
        super().emit(generation, event)


class RecordingDispatcher(Dispatcher):
    """Keeps what is said of self-checks, and has no timers."""

    def __init__(self, scheduler: Scheduler, clients: dict[str, Client], clock: Clock) -> None:
        super().__init__(scheduler, [], MODEL.fingerprint, Timeline(), clock.now_s)
        self._streams = RecordingStreams(self, self.metrics, clock.now_s, "")
        self._streams.clients = clients
        self.checked: list[Checked] = []

    def _checked(self, checked: Checked) -> None:
        self.checked.append(checked)

    def _start_orphan_timer(self) -> None:
        """Here is no time, and every worker comes back."""

    def _set_deadline_timer(self, deadline_s: float) -> None:
        """Time passes when the scenario says so."""


class Clock:
    """Times that mean nothing, but that decisions depend on."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._now_ns = 0

    def now_ns(self) -> int:
        """Later than the last time."""
        self._now_ns += self._duration_ns()
        return self._now_ns

    def now_s(self) -> float:
        """Likewise, in seconds."""
        return self.now_ns() / 1e9

    def step(self, num_prefill_tokens: int) -> worker_pb2.Span:
        """A step of so many prompt tokens."""
        return worker_pb2.Span(
            kind=worker_pb2.SPAN_KIND_STEP,
            end_ns=self._duration_ns(),
            num_prefill_tokens=num_prefill_tokens,
        )

    def _duration_ns(self) -> int:
        return int(10 ** self._random.uniform(5, 9))


Action = tuple[str, Callable[[], None]]


class Simulation:
    """One scenario. `trace` is what happened, for whoever has to understand a failure."""

    def __init__(self, random: Random, faults: Faults, policy: str | None) -> None:
        """With a `policy`'s name, decode workers alone serve. Else these compute some prompts, in
        half of the scenarios."""
        self.random = random
        self.local_prefill = not policy and random.random() < 0.5
        self.prefix_caching = random.random() < 0.75
        self.max_parked_bytes = random.choice((0, 10**3, 10**9))
        self._clock = Clock(random)
        self.tenants = some_tenants(random)
        self.self_check_rate = random.choice((0.0, 1.0))
        self.faults = faults
        self.trace: list[str] = []
        self.clients: dict[str, Client] = {}
        self._transfers: list[SimTransfers] = []
        self._num_to_come = random.randint(1, 8)
        self._slow: dict[str, bool] = {}
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
        self.dispatcher = RecordingDispatcher(self.scheduler, self.clients, self._clock)
        for _ in range(random.choice((0, MIN_OBSERVED))):
            # Far too few are expected: there will be preemptions.
            self.scheduler._lifecycle.lengths.observe(random.randint(1, 2))
        num_prefill = 0 if policy else random.randint(1, 2)
        self.links = [self._link(WorkerRole.PREFILL, n) for n in range(num_prefill)]
        self.links += [self._link(WorkerRole.DECODE, n) for n in range(random.randint(1, 3))]
        for link in self.links:
            link.connect()

    def _link(self, role: WorkerRole, number: int) -> SimLink:
        worker_id = f"{role.name.lower()}-{number}"
        num_blocks, max_num_seqs = self.random.randint(5, 7), self.random.choice((1, 2, 4, 4))

        def start() -> Process:
            self._next_epoch += 1
            info = worker_info(worker_id, role, self._next_epoch, num_blocks, max_num_seqs)
            return self._start(info)

        link = SimLink(self.dispatcher, start, self._clock)
        self.dispatcher._links[link.address] = link  # type: ignore[assignment]
        return link

    def _start(self, info: WorkerInfo) -> Process:
        if info.role is WorkerRole.DECODE:
            return DecodeProcess(
                info,
                lambda request_id: self.clients[request_id].end,
                self.prefix_caching,
                self.max_parked_bytes,
            )
        transfers = SimTransfers(self._find_decode)
        transfers.source = PrefillProcess(info, transfers, self.prefix_caching)
        self._transfers.append(transfers)
        return transfers.source

    def _find_decode(self, address: str) -> DecodeProcess:
        (link,) = (link for link in self.links if link.address == address)
        assert isinstance(link.process, DecodeProcess)
        return link.process

    # A scenario

    def run(self) -> None:
        """Disturb the system for a while, then leave it alone until it is quiet."""
        for _ in range(self.random.randint(10, 150)):
            disturbs = self.random.random() < self.faults.rate
            actions = list(self._disturbances() if disturbs else self._progress())
            if actions:
                self._do(self._choose(actions))
            else:
                self._heartbeat()
            self._check_views()
        self._drain()
        self.check_quiet()

    def _drain(self) -> None:
        for link in self.links:
            if not link.connected:
                self._do(self._connect(link))
            self.dispatcher.undrain_worker(link.name)
        for _ in range(MAX_DRAIN):
            actions = list(self._progress())
            if not actions:
                self._heartbeat()
                actions = list(self._progress())
            if not actions:
                return
            self._do(self._choose(actions))
        raise AssertionError("it never gets quiet")

    def _choose(self, actions: list[Action]) -> Action:
        """In each scenario some actions are slow, so that a lot can happen before they do."""
        random = self.random
        quick = [each for each in actions if not self._is_slow(each[0])]
        return random.choice(quick if quick and random.random() < 0.95 else actions)

    def _is_slow(self, name: str) -> bool:
        if name not in self._slow:
            self._slow[name] = self.random.random() < 0.2
        return self._slow[name]

    def _do(self, action: Action) -> None:
        name, act = action
        self.trace.append(name)
        act()

    def _heartbeat(self) -> None:
        self.trace.append("heartbeats")
        for link in self.links:
            if link.connected:
                link.report()
                while link.up:
                    link.read()

    # What can happen next

    def _progress(self) -> Iterator[Action]:
        if len(self.clients) < self._num_to_come:
            yield "submit", self._submit
        if self.scheduler.next_deadline_s < inf:
            yield "time passes", self.dispatcher.expire
        for link in self.links:
            yield from self._link_progress(link)
            yield from self._process_progress(link)
        for transfer in self._open_transfers():
            if transfer.can_go_on:
                yield f"transfer {transfer.sequence_id}", transfer.go_on

    def _link_progress(self, link: SimLink) -> Iterator[Action]:
        name = link.name
        if link.serving and link.due:
            yield f"write to {name}", link.write
        if link.down:
            yield f"deliver to {name}", link.deliver
        if link.up:
            yield f"read from {name}", link.read
        if link.connected and link.process.news:
            yield f"{name} reports", link.report

    def _process_progress(self, link: SimLink) -> Iterator[Action]:
        process = link.process
        if process.is_stepping:
            yield f"{link.name} lands", process.land
        elif process.runnable:
            at_once = self.random.random() < 0.5
            yield f"{link.name} launches", lambda: process.launch(at_once)
        if isinstance(process, DecodeProcess) and process.moves:
            yield f"{link.name} moves KV", process.move
        if link.leaving:
            yield f"{link.name} leaves", lambda: self._drains(link.leave)

    def _disturbances(self) -> Iterator[Action]:
        faults = self.faults
        if faults.cancels:
            for client in self._open_clients():
                yield f"cancel {client.request.request_id}", lambda c=client: self._cancel(c)
        for link in self.links:
            yield from self._link_disturbances(link)
            if faults.engine_failures and link.process.is_stepping:
                yield f"{link.name}'s engine fails", lambda p=link.process: self._fail_step(p)
            if isinstance(link.process, DecodeProcess) and link.process.moves:
                yield f"{link.name} cannot move KV", link.process.fail_move
        if faults.transfer_faults:
            for each in self._open_transfers():
                yield f"fault in {each.sequence_id}", lambda t=each: self._fault(t)

    def _link_disturbances(self, link: SimLink) -> Iterator[Action]:
        name = link.name
        if link.connected and self.faults.breaks:
            yield f"{name}'s stream breaks", link.break_stream
            if link.info and link.serving and not link.suspected:
                yield f"{name} is silent", link.suspect
        if self.faults.drains:
            yield from self._drain_disturbances(link)
        if not link.connected:
            yield self._connect(link)
            if link.info and self.faults.losses:
                yield f"give {name} up", lambda: self._lose(link.give_up)
        if self.faults.losses:
            yield f"kill {name}", lambda: self._lose(link.kill)
            if not link.connected and link.process.has_lease:
                yield f"{name}'s lease expires", lambda: self._lose(link.expire)

    def _drain_disturbances(self, link: SimLink) -> Iterator[Action]:
        name, timeout_s = link.name, self.random.choice((0, 0.1, 1, 10, 1000))
        if link.process.draining_ms is None:
            yield f"{name} is to end", lambda: link.drain(int(timeout_s * 1000))
        if link.info:
            drain, undrain = self.dispatcher.drain_worker, self.dispatcher.undrain_worker
            yield f"drain {name}", lambda: self._drains(lambda: drain(name, timeout_s))
            yield f"undrain {name}", lambda: self._drains(lambda: undrain(name))

    def _connect(self, link: SimLink) -> Action:
        return f"connect {link.name}", lambda: self._lose(link.connect)

    def _submit(self) -> None:
        client = self._new_client()
        self.clients[client.request.request_id] = client
        try:
            stream = self.dispatcher.submit(client.request)
        except (Unavailable, RateLimitExceeded, DeadlineExceeded) as refusal:
            client.outcome = refusal
            self._check_refusal(client, refusal)
        else:
            client.generation = stream.generation

    def _new_client(self) -> Client:
        random = self.random
        prompt = self._prompt()
        params = SamplingParams(
            max_tokens=random.randint(1, 20 - len(prompt)),
            seed=random.randrange(2**63),
            temperature=random.choice((0.0, 1.0)),
            stop_token_ids=frozenset(random.sample(range(VOCAB_SIZE), 20)),
            ignore_eos=random.random() < 0.3,
            logprobs=random.choice((None, 2)),
        )
        request = TokenRequest(
            f"r{len(self.clients)}",
            prompt,
            params,
            random.randrange(3),
            random.choice((b"", b"", b"salt")),
            random.choice(tuple(self.tenants)),
            random.choice((0, 0, -1, 5)),
            self._deadline_s(),
        )
        return Client(request, *expectation(request))

    def _prompt(self) -> tuple[int, ...]:
        """Begins as one before it, more often than not."""
        random = self.random
        length = random.randint(1, 14)
        shared: tuple[int, ...] = ()
        if self.clients and random.random() < 0.6:
            earlier = random.choice(tuple(self.clients.values()))
            tokens = (*earlier.request.prompt_token_ids, *earlier.tokens)
            shared = tokens[: random.randint(0, length)]
        rest = range(length - len(shared))
        return (*shared, *(random.randrange(VOCAB_SIZE) for _ in rest))

    def _deadline_s(self) -> float:
        if not (self.faults.deadlines and self.random.random() < self.faults.rate):
            return inf
        return self._clock.now_s() + self.random.choice((0.1, 1.0, 10.0))

    def _check_refusal(self, client: Client, refusal: TandemError) -> None:
        """Who is refused, is for a reason."""
        tenant, has_deadline = client.request.tenant, client.request.deadline_s < inf
        match refusal:
            case RateLimitExceeded():
                open_clients = [it for it in self._open_clients() if it.request.tenant == tenant]
                assert len(open_clients) == self.tenants[tenant].max_requests
            case DeadlineExceeded():
                assert has_deadline
            case _:
                assert has_deadline or not self.scheduler.is_ready

    def _cancel(self, client: Client) -> None:
        assert client.generation is not None
        client.cancelled = True
        self.dispatcher.cancel(client.generation)

    def _fail_step(self, process: Process) -> None:
        for sequence_id in process.fail():
            self._excuse(sequence_id)

    def _fault(self, transfer: Transfer) -> None:
        """What is damaged on its way is computed again, as what did not get through is."""
        if self.random.random() < 0.5:
            transfer.fault = DataLoss("the link is faulty")
        else:
            transfer.fault = Unavailable("the link is closed")

    def _lose(self, how: Callable[[], None]) -> None:
        """A loss costs nothing to generations that may be tried again."""
        waiting = [
            client
            for client in self._open_clients()
            if client.generation and client.generation.can_restart
        ]
        how()
        for client in waiting:
            if isinstance(client.outcome, DeadlineExceeded):
                continue
            assert client.outcome is None, f"{client.request.request_id} fails, and need not"

    def _drains(self, how: Callable[[], object]) -> None:
        """A drain is no loss, and costs nobody anything."""
        losses = {
            each: each.generation.num_losses for each in self._open_clients() if each.generation
        }
        how()
        for client, num_losses in losses.items():
            assert client.outcome is None or isinstance(client.outcome, DeadlineExceeded)
            assert client.generation and client.generation.num_losses == num_losses

    def _excuse(self, sequence_id: int) -> None:
        for client in self._open_clients():
            if client.generation and client.generation.sequence_id == sequence_id:
                client.excused = True

    def _open_clients(self) -> list[Client]:
        return [each for each in self.clients.values() if each.outcome is None]

    def _open_transfers(self) -> list[Transfer]:
        for each in self._transfers:
            each.all = [transfer for transfer in each.all if not transfer.over]
        return [transfer for each in self._transfers for transfer in each.all]

    # What must hold

    @property
    def num_parked(self) -> int:
        processes = (link.process for link in self.links)
        return sum(each.num_parked for each in processes if isinstance(each, DecodeProcess))

    @property
    def num_preemptions(self) -> int:
        return sum(
            each.served_by.num_preemptions for each in self.clients.values() if each.served_by
        )

    @property
    def modes(self) -> set[ServingMode]:
        """How requests were served."""
        return {each.served_by.mode for each in self.clients.values() if each.served_by}

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that were not computed."""
        served = (each.served_by for each in self.clients.values() if each.served_by)
        return sum(each.num_cached_tokens for each in served)

    @property
    def handed_over(self) -> list[Generation]:
        """Those that went on elsewhere because their worker was to let go of them."""
        all_generations = (each.generation for each in self.clients.values() if each.generation)
        return [
            generation
            for generation in all_generations
            if any(each.end is AttemptEnd.DRAINED for each in generation.attempts.kept)
        ]

    @property
    def num_losses(self) -> int:
        served = (each.served_by for each in self.clients.values() if each.served_by)
        return sum(each.num_losses for each in served)

    def _check_views(self) -> None:
        running = self.scheduler._self_checks._running
        for view in self.scheduler.workers:
            assert not (view.generations and view.info.worker_id in running), "in the way"
            assert view.num_used_blocks >= 0
            assert self.prefix_caching or view.num_used_blocks <= view.info.num_blocks
            assert len(view.generations) <= view.info.max_num_seqs
            if isinstance(view, PrefillView):
                assert len(view.batches) <= MAX_BATCHES
                assert not (view.forming and len(view.batches) == MAX_BATCHES)

    def check_quiet(self) -> None:
        """Nothing goes on any more: everybody was served, and nothing is left anywhere."""
        assert len(self.clients) == self._num_to_come
        for client in self.clients.values():
            assert client.outcome is not None, f"{client.request.request_id} hangs"
            self._check_outcome(client)
        assert not self.dispatcher._streams
        assert not self._open_transfers()
        self._check_self_checks()
        for view in self.scheduler.workers:
            assert view.num_used_blocks == 0
            assert not view.generations
            assert not self.scheduler.next_deadline_s < inf
            if isinstance(view, PrefillView):
                assert not any(view.bound_blocks.values())
                assert view.forming is None
                assert not view.batches
            if isinstance(view, DecodeView):
                assert not view.num_refused_blocks
                assert not any((view.tenant_seqs + view.tenant_blocks).values())
        for link in self.links:
            self._check_process(link.process)

    def _check_self_checks(self) -> None:
        """Each answer that there is was checked, if they are, and none was found to be wrong."""
        answers = {
            (client.request.request_id, client.request.choice_index)
            for client in self.clients.values()
            if client.tokens and isinstance(client.outcome, Ended | Cancelled)
        }
        checked = [(each.request_id, each.choice_index) for each in self.dispatcher.checked]
        assert sorted(checked) == sorted(answers if self.self_check_rate else ())
        faults = self.faults
        may_fail = faults.rate > 0 and (faults.engine_failures or faults.breaks or faults.losses)
        results = {CheckResult.SAME, CheckResult.FAILED} if may_fail else {CheckResult.SAME}
        assert {each.result for each in self.dispatcher.checked} <= results

    def _check_outcome(self, client: Client) -> None:
        """Who was not cancelled has all tokens, or lost workers, or KV on its way, so often that it
        was given up."""
        if client.generation is None or isinstance(client.outcome, Ended) or client.cancelled:
            return
        if isinstance(client.outcome, DeadlineExceeded):
            return
        given_up = not client.generation.can_restart
        assert client.excused or given_up, (
            f"{client.request.request_id} failed without a cause: {client.outcome!r}"
        )

    def _check_process(self, process: Process) -> None:
        assert process.state.num_free_blocks == process.info.num_blocks
        snapshot = process.state.snapshot()
        if isinstance(process, PrefillProcess):
            assert snapshot.sequence_ids == snapshot.batch_ids == snapshot.reports == ()
        else:
            assert snapshot.sequences == ()


def some_tenants(random: Random) -> Tenants:
    """Nobody but the default, in half of all scenarios."""
    if random.random() < 0.5:
        return {DEFAULT_TENANT: Tenant()}
    return {
        name: Tenant(
            weight=random.choice((0.5, 1.0, 3.0)), max_requests=random.choice((None, 1, 2))
        )
        for name in (DEFAULT_TENANT, "a", "b")
    }


def expectation(request: TokenRequest) -> tuple[list[int], FinishReason]:
    """A request's tokens and end, worked out by hand."""
    params, prompt = request.params, request.prompt_token_ids
    limit = min(params.max_tokens, MAX_MODEL_LEN - len(prompt))
    tokens = expected_tokens(
        prompt,
        params,
        limit,
        output_token_ids=(0, VOCAB_SIZE),
        choice_index=request.choice_index,
    )
    stops = params.stop_token_ids | (frozenset() if params.ignore_eos else END_RULE.eos_token_ids)
    for index, token_id in enumerate(tokens):
        if token_id in stops:
            return tokens[: index + 1], FinishReason.STOP
    return tokens, FinishReason.LENGTH


def run_scenario(random: Random, faults: Faults, policy: str | None = None) -> Simulation:
    """Run one scenario; a failure tells what led to it."""
    simulation = Simulation(random, faults, policy)
    try:
        simulation.run()
    except Exception as error:
        error.add_note("\n".join(simulation.trace[-80:]))
        raise
    return simulation


assert BLOCK_SIZE * 5 >= MAX_MODEL_LEN, "the smallest pool holds the longest sequence"
