"""What the decode loop costs besides the engine: processor time of all processes, per step.

Starts `tandem up` on mock GPUs and lets a batch of streams run over HTTP. Of a while in their midst
it takes the processor time of the gateway and the workers: commands, the merge, reports,
detokenising, server-sent events, heartbeats, timelines. The engines are fake; what processor time
the decode worker's needs all the same is measured alone, in this process, and shown apart. The
client, which runs here, is not counted.

It runs twice: on a GPU without cost (`zero`), where the loop never rests, and at the pace of an
`h100`, whose steps last milliseconds. There each step finds cold caches and sleeping threads, and
costs more.

    .venv/bin/python benchmarks/loop.py [--batches 1 16 128] [--profiles zero h100] [--seconds 6]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import grpc
import psutil
from rich.console import Console
from rich.table import Table
from up import Up

from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.core.worker import ModelInfo
from tandem.engine.fake.engine import FakeEngine
from tandem.engine.fake.profiles import parse_profile
from tandem.v1 import inference_pb2, inference_pb2_grpc, worker_pb2

# A stream must outlast the measurement at any pace.
MAX_TOKENS = 60_000
MAX_TOKENS_OF_BATCH = 1_500_000
PROMPT = "The quick brown fox jumps over the lazy dog. "
NUM_BLOCKS = 100_000
WARM_UP_S = 1.0
ROLES = {"gateway": "gateway", "prefill_service": "prefill", "decode_service": "decode"}


@dataclass(frozen=True)
class Sample:
    """When; processor seconds so far by process, decode steps so far, events that came so far."""

    at_s: float
    cpu_s: dict[str, float]
    step: int
    num_events: int


class Streams:
    """Streams of one batch, and the events of all of them."""

    def __init__(self, port: int, num_streams: int) -> None:
        self._port = port
        self._max_tokens = max_tokens(num_streams)
        self.num_events = 0
        self.all_started = asyncio.Event()
        self._num_waiting = num_streams

    async def run(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        body = json.dumps(
            {
                "model": "default",
                "prompt": f"{number}: {PROMPT}",
                "max_tokens": self._max_tokens,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        try:
            data = await reader.read(2**16)
            assert data.startswith(b"HTTP/1.1 200"), data[:300]
            self._num_waiting -= 1
            if not self._num_waiting:
                self.all_started.set()
            while data:
                self.num_events += data.count(b"data: ")
                data = await reader.read(2**16)
        finally:
            writer.close()


def max_tokens(batch: int) -> int:
    return min(MAX_TOKENS, MAX_TOKENS_OF_BATCH // batch)


@contextmanager
def running(profile: str, topology: str) -> Iterator[Up]:
    """A `tandem up` that is ready."""
    with TemporaryDirectory() as folder:
        up = Up(
            Path(folder),
            *("--topology", topology, "--device", f"mock:{profile}"),
            *("--num-blocks", str(NUM_BLOCKS), "--mock-verify", "incremental"),
        )
        try:
            up.wait_until_ready()
            yield up
        finally:
            up.close()


def role_of(process: psutil.Process) -> str:
    return next(ROLES[each] for each in process.cmdline() if each in ROLES)


def last_step(stub: inference_pb2_grpc.InferenceServiceStub) -> int:
    timeline = stub.GetTimeline(inference_pb2.GetTimelineRequest(window_ms=1000))
    return max(
        span.number
        for lane in timeline.lanes
        if lane.role == worker_pb2.WORKER_ROLE_DECODE
        for span in lane.spans
        if span.kind == worker_pb2.SPAN_KIND_STEP
    )


async def measure(batch: int, profile: str, seconds: float, topology: str) -> tuple[Sample, Sample]:
    with running(profile, topology) as up:
        streams = Streams(up.http_port, batch)
        processes = {role_of(each): each for each in up.children}
        with grpc.insecure_channel(f"127.0.0.1:{up.grpc_port}") as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)

            def sample() -> Sample:
                step = last_step(stub)
                cpu_s = {name: sum(each.cpu_times()[:2]) for name, each in processes.items()}
                return Sample(time.monotonic(), cpu_s, step, streams.num_events)

            tasks = [asyncio.create_task(streams.run(number)) for number in range(batch)]
            await streams.all_started.wait()
            await asyncio.sleep(WARM_UP_S)
            before = sample()
            await asyncio.sleep(seconds)
            after = sample()
            assert not any(task.done() for task in tasks), "a stream ended in the midst"
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return before, after


def engine_s(batch: int, profile: str, num_steps: int = 200) -> float:
    """Processor seconds of a fake engine alone, for one decode step of a batch."""
    engine = FakeEngine(
        ModelInfo("loop", "", 256, 131072, frozenset(), "fake"),
        profile=parse_profile(profile),
        block_size=16,
        num_blocks=batch * 64,
        output_token_ids=(0, 256),
        verify="incremental",
    )
    spec = SampleSpec(SamplingParams(max_tokens=max_tokens(batch), seed=0))

    def plan(number: int, start: int, tokens: int) -> StepPlan:
        return StepPlan(
            number,
            tuple(
                SequenceSlice(row, [1] * tokens, start, range(row * 64, row * 64 + 64), spec)
                for row in range(batch)
            ),
        )

    engine.launch(plan(0, 0, 100)).result()
    start = time.process_time()
    for step in range(num_steps):
        engine.launch(plan(step + 1, 100 + step, 1)).result()
    return (time.process_time() - start) / num_steps


async def main(args: argparse.Namespace) -> None:
    table = Table(title=f"processor time per decode step, ms ({args.topology})")
    figures = ("gateway", "prefill", "decode", "all", "fake engine", "without it")
    for heading in (
        "mock",
        "batch",
        *figures,
        "steps/s",
        "events/step",
        "events/s/core of gateway",
    ):
        table.add_column(heading, justify="right")
    for profile in args.profiles:
        for batch in args.batches:
            runs = [
                await measure(batch, profile, args.seconds, args.topology) for _ in range(args.runs)
            ]
            table.add_row(profile, str(batch), *row(runs, engine_s(batch, profile)))
    Console(width=120).print(table)


def row(runs: list[tuple[Sample, Sample]], engine: float) -> list[str]:
    """Medians over the runs."""

    def median(of: Callable[[Sample], float], per: Callable[[Sample], float]) -> float:
        return statistics.median(
            (of(after) - of(before)) / (per(after) - per(before)) for before, after in runs
        )

    def step(sample: Sample) -> float:
        return sample.step

    def num_events(sample: Sample) -> float:
        return sample.num_events

    def cpu_s(name: str) -> Callable[[Sample], float]:
        return lambda sample: sample.cpu_s.get(name, 0.0)

    each = [median(cpu_s(name), step) for name in ROLES.values()]
    figures = (*each, sum(each), engine, sum(each) - engine)
    return [
        *(f"{figure * 1e3:.3f}" for figure in figures),
        f"{median(step, lambda sample: sample.at_s):,.0f}",
        f"{median(num_events, step):.1f}",
        f"{median(num_events, cpu_s('gateway')):,.0f}",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--profiles", nargs="+", default=["zero", "h100"])
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--topology", default="1p1d")
    asyncio.run(main(parser.parse_args()))
