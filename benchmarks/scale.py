"""One gateway, many workers, very many open streams: what a token costs it, and what waits for it.

64 mock decode workers (8B on an H100, stretched eightyfold: a step every half second) and 10,000
streams over HTTP, each of 2 tokens a second. Workers share a process (`mock_workers.py`) and the
load has another one, this; the gateway has its own, as always. Reported, over a window in which all
streams are open:

- processor time of the gateway for each token, and the memory and descriptors that it has; where
  it falls behind, several tokens share a chunk;
- processor time for each opened stream, the tokens of those that are open already included, and
  how many it refused meanwhile; those come again after a second;
- added latency: from the end of a token's step on the worker to its arrival at the client, on one
  clock, of the streams whose worker is known: those that end in the window, whose last chunk says
  who served them;
- whether any step waited for a plan: gaps between steps whose work was there already.

    .venv/bin/python benchmarks/scale.py [--workers 64] [--streams 10000] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import sys
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from tandem.bench.completion_stream import NO_USAGE, Endpoint
from tandem.bench.percentiles import percentiles
from tandem.bench.ports import free_port
from tandem.bench.workload import Prompt
from tandem.cli.flags import GatewayFlags
from tandem.cli.ports import free_ports
from tandem.cli.reaching import reached
from tandem.cli.timeline import fetch_lanes
from tandem.core.errors import TandemError
from tandem.core.pipeline import Lane, gaps_ns
from tandem.core.reports import SpanKind
from tandem.process.host import raise_open_files
from tandem.process.lifetime import END_WITH_PARENT

PROMPT_TOKENS = 16
# One in so many streams ends in the window and is followed by another.
PROBE_SHARE = 50
READY_S = 30.0
START_S = 300.0
WORKERS_PER_PROCESS = 32
# What the gateway asks for at the least.
RETRY_AFTER_S = 1.0
# Who served a stream is told in its closing chunk.
DECODE_WORKER = re.compile(rb'"decode_worker":"([^"]+)"')


@dataclass
class Arrivals:
    """A probe: when chunks came, in seconds of the monotonic clock, and who served it."""

    sent_s: float = 0.0
    at_s: list[float] = field(default_factory=list)
    worker: str = ""


class Stream(asyncio.Protocol):
    """One streamed completion, with as little work for each token as there can be."""

    def __init__(self, load: Load, request: bytes, probe: Arrivals | None) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._load = load
        self._request = request
        self._probe = probe
        self._begun = False
        self.was_refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        load = self._load
        if not self._begun:
            self._begun = True
            self.was_refused = data.startswith(b"HTTP/1.1 503")
            load.num_refused += self.was_refused
            load.num_open += not self.was_refused
            if not (self.was_refused or data.startswith(b"HTTP/1.1 200")):
                load.problems.append(data[:200].decode(errors="replace"))
        load.num_chunks += data.count(b"data: {")
        if self._probe is not None:
            self._probe.at_s.append(perf_counter())
            if named := DECODE_WORKER.search(data):
                self._probe.worker = named[1].decode()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.num_open -= self._begun and not self.was_refused
        if not self.ended.done():
            self.ended.set_result(None)


class Load:
    """All streams, from one event loop."""

    def __init__(self, port: int, args: argparse.Namespace) -> None:
        self.num_open = 0
        self.num_chunks = 0
        self.num_refused = 0
        self.problems: list[str] = []
        self.probes: list[Arrivals] = []
        self._port = port
        self._endpoint = Endpoint("127.0.0.1", port, fields=NO_USAGE)
        self._num_streams = args.streams
        self._open_per_s = args.open_per_s
        self._num_tokens = args.tokens
        self._probe_tokens = args.probe_tokens
        self._tasks: set[asyncio.Task[None]] = set()

    async def open_all(self) -> None:
        """Open them at a pace, and wait until all are, or it turns out that not all are taken."""
        start = perf_counter()
        for number in range(self._num_streams):
            await asyncio.sleep(start + number / self._open_per_s - perf_counter())
            is_probe = number % PROBE_SHARE == 0
            run = self._probe(number) if is_probe else self._stream(number, self._num_tokens, None)
            self._tasks.add(asyncio.create_task(run))
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                await self._all_open()

    async def _all_open(self) -> None:
        # A probe may be between two streams.
        while self.num_open < self._num_streams * (1 - 1 / PROBE_SHARE):  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _probe(self, number: int) -> None:
        while not self.problems:
            arrivals = Arrivals(perf_counter())
            await self._stream(number, self._probe_tokens, arrivals)
            self.probes.append(arrivals)

    async def _stream(self, number: int, num_tokens: int, probe: Arrivals | None) -> None:
        """To its end, however often it is refused before it begins."""
        is_refused = True
        while is_refused:
            is_refused = await self._attempt(number, num_tokens, probe)
            await asyncio.sleep(is_refused * RETRY_AFTER_S)

    async def _attempt(self, number: int, num_tokens: int, probe: Arrivals | None) -> bool:
        """Whether it was refused."""
        loop = asyncio.get_running_loop()
        request = self._request(number, num_tokens)
        try:
            transport, stream = await loop.create_connection(
                lambda: Stream(self, request, probe), "127.0.0.1", self._port
            )
        except OSError as error:
            self.problems.append(str(error))
            return False
        try:
            await stream.ended
        finally:
            transport.close()
        return stream.was_refused

    def _request(self, number: int, num_tokens: int) -> bytes:
        token_ids = tuple((number + i) % 256 for i in range(PROMPT_TOKENS))
        return self._endpoint.request(Prompt(token_ids, num_tokens))


@dataclass(frozen=True)
class Sample:
    """When; processor seconds so far of gateway, workers and load; chunks so far."""

    at_s: float
    cpu_s: tuple[float, float, float]
    num_chunks: int


@dataclass(frozen=True)
class System:
    """The processes that are measured."""

    gateway: psutil.Process
    workers: list[psutil.Process]
    http_port: int
    grpc_port: int

    def sample(self, num_chunks: int) -> Sample:
        own = psutil.Process()
        groups = ([self.gateway], self.workers, [own])
        cpu_s = [sum(sum(each.cpu_times()[:2]) for each in group) for group in groups]
        return Sample(perf_counter(), (cpu_s[0], cpu_s[1], cpu_s[2]), num_chunks)


@dataclass(frozen=True)
class Found:
    """At both ends of the window, and in it. `memory` is the gateway's PSS."""

    before: Sample
    after: Sample
    num_open: int
    probes: list[Arrivals]
    num_files: int
    memory: int
    workers: list[Lane]


@asynccontextmanager
async def running_system(args: argparse.Namespace) -> AsyncIterator[System]:
    """Workers in a few processes, and a gateway that has all of them."""
    base = free_port()
    http_port, grpc_port, *ports = free_ports("127.0.0.1", base, args.workers + 2, set())
    processes: list[asyncio.subprocess.Process] = []
    try:
        for first in range(0, args.workers, WORKERS_PER_PROCESS):
            batch = ports[first : first + WORKERS_PER_PROCESS]
            processes.append(
                await _start(
                    *("benchmarks/mock_workers.py", "--first", str(first)),
                    *("--device", args.device, "--num-blocks", str(args.num_blocks)),
                    *("--ports", *map(str, batch)),
                )
            )
        decode = ",".join(f"127.0.0.1:{port}" for port in ports)
        gateway = await _start(
            *("-m", "gateway", "--model", "mock", "--prefill", "", "--decode", decode),
            *("--http-port", str(http_port), "--grpc-port", str(grpc_port)),
            *("--max-connections", str(args.streams + 500), "--max-queue", str(args.streams)),
            *("--log-level", "error"),
        )
        processes.append(gateway)
        workers = [psutil.Process(each.pid) for each in processes[:-1]]
        system = System(psutil.Process(gateway.pid), workers, http_port, grpc_port)
        await _until_all_joined(system, args.workers)
        _let_others_go_on([os.getpid(), *(each.pid for each in workers)])
        yield system
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env={**os.environ, END_WITH_PARENT: str(os.getpid())}
    )


def _let_others_go_on(pids: Sequence[int]) -> None:
    """Have processes take the processor from nobody when something comes for them. They would be on
    other machines; here, on two cores, they would do so ten thousand times a second."""
    for pid in pids:
        for thread in psutil.Process(pid).threads():
            # It may have ended meanwhile.
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread.id, os.SCHED_BATCH, os.sched_param(0))


async def _until_all_joined(system: System, num_workers: int) -> None:
    async with asyncio.timeout(START_S):
        while True:
            try:
                if len(lanes(system)) == num_workers:
                    return
            except TandemError:
                pass
            await asyncio.sleep(0.5)


def lanes(system: System, window_ms: int = 1) -> list[Lane]:
    """What the workers did of late. On this machine they share a clock."""
    with reached(GatewayFlags(f"127.0.0.1:{system.grpc_port}")) as gateway:
        return fetch_lanes(gateway, window_ms)


def added_latencies_ns(probes: Sequence[Arrivals], workers: Sequence[Lane]) -> list[int]:
    """From the end of the last step before a chunk's arrival, on the worker that served it."""
    ends = {
        lane.worker_id: [span.end_ns for span in lane.of_kind(SpanKind.STEP)] for lane in workers
    }
    latencies = []
    for probe in probes:
        steps = ends.get(probe.worker, [])
        # The first is the prompt's; the last one may come with the end.
        for at_s in probe.at_s[1:]:
            at_ns = int(at_s * 1e9)
            if before := bisect_right(steps, at_ns):
                latencies.append(at_ns - steps[before - 1])
    return latencies


async def main(args: argparse.Namespace) -> None:
    raise_open_files()
    async with running_system(args) as system:
        load = Load(system.http_port, args)
        gc.collect()
        gc.disable()
        closed = system.sample(load.num_chunks)
        await load.open_all()
        opened = system.sample(load.num_chunks)
        await asyncio.sleep(args.warm_up)
        load.probes.clear()
        before = system.sample(load.num_chunks)
        await asyncio.sleep(args.seconds)
        found = Found(
            before,
            system.sample(load.num_chunks),
            load.num_open,
            list(load.probes),
            system.gateway.num_fds(),
            system.gateway.memory_full_info().pss,
            lanes(system, int(args.seconds * 1000)),
        )
        await load.close()
    console = Console(width=110)
    console.print(
        f"opened in {opened.at_s - closed.at_s:.0f} s, {load.num_refused:,} times refused; "
        f"gateway, ms a stream: {(opened.cpu_s[0] - closed.cpu_s[0]) / args.streams * 1e3:.1f}"
    )
    console.print(table(found))
    if load.problems:
        sys.exit(f"{len(load.problems)} streams failed; the first: {load.problems[0]}")


def table(found: Found) -> Table:
    before, after, workers = found.before, found.after, found.workers
    latencies = added_latencies_ns(found.probes, workers)
    seconds = after.at_s - before.at_s
    num_chunks = after.num_chunks - before.num_chunks
    gateway_s, workers_s, load_s = (
        later - earlier for later, earlier in zip(after.cpu_s, before.cpu_s, strict=True)
    )
    steps = [lane.of_kind(SpanKind.STEP) for lane in workers]
    gaps = [gap for each in steps for gap in gaps_ns(each)]
    idle = sum(step.waited for each in steps for step in each)
    num_tokens = sum(step.num_tokens - step.num_prefill_tokens for each in steps for step in each)
    made = Table(title="one gateway", show_header=False)
    for name, value in (
        ("workers, open streams", f"{len(workers)}, {found.num_open:,}"),
        ("tokens/s, chunks/s", f"{num_tokens / seconds:,.0f}, {num_chunks / seconds:,.0f}"),
        ("gateway, cores", f"{gateway_s / seconds:.2f}"),
        ("gateway, us a token", f"{gateway_s / num_tokens * 1e6:.1f}"),
        ("workers, load: cores", f"{workers_s / seconds:.2f}, {load_s / seconds:.2f}"),
        ("gateway, descriptors", f"{found.num_files:,}"),
        ("gateway, MiB (PSS)", f"{found.memory / 2**20:,.0f}"),
        ("added latency p50 / p99 / max, ms", _times(latencies)),
        ("chunks of which that is known", f"{len(latencies):,}"),
        ("steps", f"{sum(map(len, steps)):,}"),
        ("steps without work before them", f"{idle}"),
        ("gap between steps p50 / p99 / max, ms", _times(gaps)),
    ):
        made.add_row(name, value)
    return made


def _times(times_ns: Sequence[int]) -> str:
    return " / ".join(f"{each / 1e6:.2f}" for each in percentiles(times_ns, (50, 99, 100)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=5.0)
    parser.add_argument("--open-per-s", type=float, default=250.0, help="streams, until all are")
    parser.add_argument("--device", default="mock:h100x80", help="its steps last half a second")
    parser.add_argument("--num-blocks", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=240, help="of a stream: it must outlast all")
    parser.add_argument("--probe-tokens", type=int, default=10)
    uvloop.run(main(parser.parse_args()))
