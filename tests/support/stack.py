"""Real worker processes, and a gateway's dispatcher in the test's own process."""

from __future__ import annotations

import asyncio
import signal
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from math import inf
from pathlib import Path
from typing import Any

import structlog
from service_processes import ForkedService, start_service, while_running

from gateway.colocated_policies import colocated_policy
from gateway.dispatcher import Dispatcher
from gateway.generation_streams import GenerationStream
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.tenants import DEFAULT_TENANT
from gateway.timeline import Timeline
from gateway.tokens import Ended, Token, TokenRequest
from tandem.artifacts.grammars import GrammarCompiler
from tandem.artifacts.resolve import resolve
from tandem.bench.ports import free_port
from tandem.core.errors import TandemError
from tandem.core.reports import Armed, Preempted, Span, SpanKind, StepDone
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.engine.fake.content import expected_tokens
from tandem.v1 import worker_pb2
from tandem.wire.reports import span_from_wire

READY_TIMEOUT_S = 120.0
# What workers bring about is seen long before, but on a machine that has much else to do.
UNTIL_TIMEOUT_S = 60.0
MOCK_OUTPUT = (32, 127)
# How requests are sampled.
UNLESS_TOLD: dict[str, Any] = {"seed": 0, "temperature": 0.0, "ignore_eos": True}


class WorkerProcess:
    """One worker, as `tandem up` would start it. What it logs goes to `log`, if there is one;
    `command` is what runs it, as in another network namespace, where `host` is its own address."""

    def __init__(
        self,
        role: WorkerRole,
        *flags: str,
        port: int | None = None,
        host: str = "127.0.0.1",
        command: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        self.role = role
        self.host = host
        self.port = port or free_port()
        self.flags = flags
        self.log = log
        self._command = command
        self.process: Process | ForkedService | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    async def start(self) -> None:
        self.process = await start_service(
            f"{self.role.name.lower()}_service",
            [f"--host={self.host}", f"--port={self.port}", *self._log_flags(), *self.flags],
            self.log,
            command=self._command,
            with_parent=True,
        )

    def _log_flags(self) -> list[str]:
        is_told = any(flag.startswith("--log-level") for flag in self.flags)
        return [] if is_told else ["--log-level=warning"]

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end: its exit status."""
        assert self.process
        async with asyncio.timeout(READY_TIMEOUT_S):
            return await self.process.wait()

    async def stop(self) -> None:
        if self.process and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def started(*workers: WorkerProcess) -> AsyncIterator[None]:
    """They are being started, and none of them outlives this."""
    try:
        for worker in workers:
            await worker.start()
        yield
    finally:
        for worker in workers:
            await worker.stop()


class RecordingDispatcher(Dispatcher):
    """Also keeps what the workers report: their own step log."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.num_joined = 0
        self.num_blocks: dict[str, int] = {}
        self.num_free: dict[str, int] = {}
        self.armed: dict[tuple[str, int], Armed] = {}
        self.steps: dict[str, list[StepDone]] = {}
        self.preempted: list[Preempted] = []
        self.suspects: set[str] = set()
        self.news = asyncio.Event()

    def is_held(self, worker_id: str) -> bool:
        """Whether a worker of this id is there now."""
        return worker_id in self._links_by_id

    def suspected(self, info: WorkerInfo) -> None:
        super().suspected(info)
        self.suspects.add(info.worker_id)
        self.news.set()

    def trusted(self, info: WorkerInfo) -> None:
        super().trusted(info)
        self.suspects.discard(info.worker_id)
        self.news.set()

    def lost(self, info: WorkerInfo, error: TandemError) -> None:
        super().lost(info, error)
        self.news.set()

    def left(self, info: WorkerInfo) -> None:
        super().left(info)
        self.news.set()

    def joined(self, info: WorkerInfo, address: str) -> None:
        self.num_joined += 1
        self.num_blocks[info.worker_id] = info.num_blocks
        super().joined(info, address)
        self.news.set()

    def heard(
        self,
        info: WorkerInfo,
        header: worker_pb2.WorkerHeader,
        received_ns: int,
        reports: Sequence[Any] = (),
    ) -> None:
        self.num_free[info.worker_id] = header.num_free_blocks
        self._record(info, reports)
        super().heard(info, header, received_ns, reports)
        self.news.set()

    def _record(self, info: WorkerInfo, reports: Sequence[Any]) -> None:
        for report in reports:
            if isinstance(report, Armed):
                self.armed[info.worker_id, report.sequence_id] = report
            elif isinstance(report, Preempted):
                self.preempted.append(report)
            elif isinstance(report, StepDone):
                self.steps.setdefault(info.worker_id, []).append(report)


@dataclass
class Stack:
    """A running system."""

    dispatcher: RecordingDispatcher
    timeline: Timeline
    workers: list[WorkerProcess]

    def next_first_id(self) -> int:
        """Where another gateway's numbers begin: beyond all that this one will ever give."""
        return time.time_ns() // 1000

    async def until(self, condition: Any, timeout: float = UNTIL_TIMEOUT_S) -> None:
        """Wait for something that workers' messages bring about."""
        async with asyncio.timeout(timeout):
            while not condition():
                self.dispatcher.news.clear()
                await self.dispatcher.news.wait()

    async def suspects(self) -> list[str]:
        """Wait until workers are suspected to be lost: which ones."""
        await self.until(lambda: self.dispatcher.suspects)
        return sorted(self.dispatcher.suspects)

    async def until_all_free(self) -> None:
        """Wait until every pool is back where it began."""
        recorder = self.dispatcher
        await self.until(lambda: recorder.num_free == recorder.num_blocks)

    def spans(self, worker: str, kind: SpanKind) -> list[Span]:
        """What the one worker whose id begins so did of late."""
        (lane,) = (
            lane for lane in self.timeline.to_wire(0).lanes if lane.worker_id.startswith(worker)
        )
        return [span_from_wire(span) for span in lane.spans if span.kind == kind]

    def submit(
        self,
        request_id: str,
        prompt: tuple[int, ...],
        max_tokens: int,
        prefix_salt: bytes = b"",
        tenant: str = DEFAULT_TENANT,
        deadline_s: float = inf,
        **params: Any,
    ) -> GenerationStream:
        sampling = SamplingParams(max_tokens=max_tokens, **{**UNLESS_TOLD, **params})
        return self.dispatcher.submit(
            TokenRequest(
                request_id,
                prompt,
                sampling,
                prefix_salt=prefix_salt,
                tenant=tenant,
                deadline_s=deadline_s,
            )
        )


@asynccontextmanager
async def running_stack(
    num_prefill: int,
    num_decode: int,
    *flags: str,
    model: str = "mock",
    devices: Sequence[str] = ("mock:zero",),
    limits: Limits | None = None,
    batching: str = "chunked",
    prefill_token_budget: int = 256,
    prefill_flags: Sequence[str] = (),
    decode_flags: Sequence[str] = (),
    policy: str = "shortest-first",
    logs: Path | None = None,
    places: Sequence[Mapping[str, Any]] = (),
    **scheduling: Any,
) -> AsyncIterator[Stack]:
    """Start workers, on `devices` in turn, wait until all have joined; stop all at the end. Without
    prefill workers it is colocated, and `batching` the policy. `places` are further arguments of
    each `WorkerProcess`, `scheduling` of the `Scheduler`; workers log to a file each in `logs`, or
    where this process does."""
    limits = limits or Limits()
    colocated = colocated_policy(batching, limits.max_batch_tokens, prefill_token_budget)
    roles = [WorkerRole.PREFILL] * num_prefill + [WorkerRole.DECODE] * num_decode
    workers = [
        WorkerProcess(
            role,
            f"--model={model}",
            f"--device={device}",
            *flags,
            *(decode_flags if role is WorkerRole.DECODE else prefill_flags),
            log=logs / f"worker-{number}.log" if logs else None,
            **(places[number] if places else {}),
        )
        for number, (role, device) in enumerate(zip(roles, cycle(devices), strict=False))
    ]
    timeline = Timeline()
    dispatcher = RecordingDispatcher(
        Scheduler(
            queue_policy(policy),
            limits,
            colocated=None if num_prefill else colocated,
            **scheduling,
        ),
        [(worker.role, worker.address) for worker in workers],
        resolve(model).fingerprint,
        timeline,
    )
    stack = Stack(dispatcher, timeline, workers)
    async with started(*workers):
        dispatcher.start()
        try:
            joined = stack.until(
                lambda: len(dispatcher.num_blocks) == len(workers), timeout=READY_TIMEOUT_S
            )
            await while_running(joined, *workers)
            yield stack
        finally:
            await dispatcher.stop()


def silence_logs() -> None:
    """Let this process log nothing: for benchmarks, whose output is a table."""
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())


async def upcoming(stream: GenerationStream) -> Sequence[Token | Ended]:
    """The events since the last call, at least one. Raises what ended the stream instead."""
    arrived = asyncio.Event()
    stream.subscribe(arrived.set)
    await arrived.wait()
    return stream.take()


async def events_of(stream: GenerationStream) -> list[Token | Ended]:
    """All events of a stream."""
    events: list[Token | Ended] = []
    while not (events and isinstance(events[-1], Ended)):
        events += await upcoming(stream)
    return events


async def collect(stream: GenerationStream) -> tuple[list[int], Ended]:
    """All tokens of a stream and its end; positions must be consecutive."""
    *tokens, ended = await events_of(stream)
    positions = [token.position for token in tokens]
    assert positions == list(range(positions[0], positions[0] + len(tokens))) if tokens else True
    return [token.token_id for token in tokens], ended


@cache
def _mock_compiler() -> GrammarCompiler:
    model = resolve("mock")
    return GrammarCompiler(model.tokenizer(), model.config.vocab_size, model.config.eos_token_ids)


def expected_mock_tokens(prompt: tuple[int, ...], max_tokens: int, **params: Any) -> list[int]:
    """What the fake engine must generate for a request of `Stack.submit`."""
    sampling = SamplingParams(max_tokens=max_tokens, **{**UNLESS_TOLD, **params})
    return list(
        expected_tokens(
            prompt,
            sampling,
            max_tokens,
            output_token_ids=MOCK_OUTPUT,
            eos_token_ids=resolve("mock").config.eos_token_ids,
            compiler=_mock_compiler() if sampling.grammar else None,
        )
    )
