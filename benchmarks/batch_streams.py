"""A `tandem up` on mock GPUs under a batch of streams, and the processor time of its processes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import grpc
from processes import role_of
from up import Up, running_up

from tandem.bench.completion_stream import NO_USAGE, Endpoint
from tandem.bench.workload import Prompt
from tandem.v1 import inference_pb2, inference_pb2_grpc, worker_pb2

# A stream must outlast the measurement at any pace.
MAX_TOKENS = 60_000
MAX_TOKENS_OF_BATCH = 1_500_000
PROMPT = "The quick brown fox jumps over the lazy dog. "
NUM_BLOCKS = 100_000
WARM_UP_S = 1.0


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
        self._endpoint = Endpoint("127.0.0.1", port, fields=NO_USAGE)
        self._max_tokens = max_tokens(num_streams)
        self.num_events = 0
        self.all_started = asyncio.Event()
        self._num_waiting = num_streams

    async def run(self, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        prompt = Prompt((), self._max_tokens, text=f"{number}: {PROMPT}")
        writer.write(self._endpoint.request(prompt))
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
        flags = (
            *("--topology", topology, "--device", f"mock:{profile}"),
            *("--num-blocks", str(NUM_BLOCKS), "--mock-verify", "incremental"),
        )
        with running_up(Path(folder), *flags) as up:
            yield up


def last_step(stub: inference_pb2_grpc.InferenceServiceStub) -> int:
    timeline = stub.GetTimeline(inference_pb2.GetTimelineRequest(window_ms=1000))
    return max(
        span.number
        for lane in timeline.lanes
        if lane.role == worker_pb2.WORKER_ROLE_DECODE
        for span in lane.spans
        if span.kind == worker_pb2.SPAN_KIND_STEP
    )


class Batch:
    """Streams that run, and the processes that serve them."""

    def __init__(
        self, up: Up, streams: Streams, stub: inference_pb2_grpc.InferenceServiceStub
    ) -> None:
        self.up = up
        self._streams = streams
        self._stub = stub
        self._processes = {role_of(each): each for each in up.children}

    def sample(self) -> Sample:
        """As of now."""
        step = last_step(self._stub)
        cpu_s = {name: cpu_seconds(each.pid) for name, each in self._processes.items()}
        return Sample(time.monotonic(), cpu_s, step, self._streams.num_events)


@asynccontextmanager
async def running_batch(num_streams: int, profile: str, topology: str) -> AsyncIterator[Batch]:
    """A batch that has warmed up, and runs on for as long as the block does."""
    with running(profile, topology) as up:
        streams = Streams(up.http_port, num_streams)
        with grpc.insecure_channel(f"127.0.0.1:{up.grpc_port}") as channel:
            tasks = [asyncio.create_task(streams.run(number)) for number in range(num_streams)]
            started = asyncio.create_task(streams.all_started.wait())
            try:
                await asyncio.wait({started, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(WARM_UP_S)
                _check_all_run(tasks)
                yield Batch(up, streams, inference_pb2_grpc.InferenceServiceStub(channel))
                _check_all_run(tasks)
            finally:
                for task in (started, *tasks):
                    task.cancel()
                await asyncio.gather(started, *tasks, return_exceptions=True)


def _check_all_run(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()
            raise AssertionError("a stream ended in the midst")


def cpu_seconds(pid: int) -> float:
    """Of all threads that live, to the nanosecond; `times(2)` knows hundredths of seconds."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9
