"""`make soak`: 10,000 requests with random cancels through a whole gateway, on mock GPUs. Then
memory, descriptors, threads, tasks and blocks are back where they were.

The gateway runs in this process, as its own service puts it together, so that its tasks can be
counted; clients talk gRPC to it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any
from unittest.mock import patch

import psutil

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from stack import (  # noqa: E402
    RecordingDispatcher,
    WorkerProcess,
    expected_mock_tokens,
    silence_logs,
    started,
)
from watched import VOCAB  # noqa: E402

from gateway import service  # noqa: E402
from gateway.settings import GatewaySettings  # noqa: E402
from tandem.bench.markdown import markdown_table  # noqa: E402
from tandem.bench.ports import free_port  # noqa: E402
from tandem.client import AsyncClient  # noqa: E402
from tandem.core.errors import TandemError  # noqa: E402
from tandem.core.worker import WorkerInfo, WorkerRole  # noqa: E402

NUM_REQUESTS = 10_000
# Caches fill and heaps find their size: what grows after these is a leak.
NUM_WARM_UP = 2_000
CONCURRENCY = 64
CANCELLED_SHARE = 0.2
MAX_GROWTH_BYTES = 24 * 2**20
MAX_NEW_FILES = 2
# How long connections and tasks may take to go when all requests have ended.
QUIET_S = 30.0


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    rss: int
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        process = psutil.Process(pid)
        return cls(process.memory_info().rss, process.num_fds(), process.num_threads())


class SoakDispatcher(RecordingDispatcher):
    """Keeps no reports: they would be what grows."""

    def _record(self, info: WorkerInfo, reports: Sequence[Any]) -> None: ...


class Soak:
    """A gateway in this process, its workers, and requests."""

    def __init__(self, num_requests: int) -> None:
        self._num_requests = num_requests
        self._random = Random(0)
        self.num_cancelled = self.num_wrong = self.num_failed = 0
        flags = ("--model=mock", "--device=mock:zero", "--num-blocks=4096")
        self.workers = [WorkerProcess(role, *flags) for role in WorkerRole]

    async def run(self) -> bool:
        """Print what was held before and after; whether that is the same."""
        async with started(*self.workers):
            with patch.object(service, "Dispatcher", self._new_dispatcher):
                return await self._run_gateway()

    def _new_dispatcher(self, *arguments: Any, **settings: Any) -> SoakDispatcher:
        self.dispatcher = SoakDispatcher(*arguments, **settings)
        return self.dispatcher

    async def _run_gateway(self) -> bool:
        addresses = [each.address for each in self.workers]
        settings = GatewaySettings(
            model="mock",
            http_port=free_port(),
            grpc_port=free_port(),
            prefill=addresses[0],
            decode=addresses[1],
            log_level="error",
        )
        serving = asyncio.create_task(service.serve(settings))
        await asyncio.sleep(0)
        await self._until(lambda: self.dispatcher.ready)
        self._num_own_tasks = len(asyncio.all_tasks())
        await self._send(settings.grpc_port, min(NUM_WARM_UP, self._num_requests // 5))
        before = await self._footprints()
        since = monotonic()
        await self._send(settings.grpc_port, self._num_requests)
        seconds = monotonic() - since
        after = await self._footprints()
        held = self._report(before, after, seconds)
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
        return held and not (self.num_wrong or self.num_failed)

    async def _send(self, port: int, count: int) -> None:
        room = asyncio.Semaphore(CONCURRENCY)
        async with (
            AsyncClient(f"127.0.0.1:{port}") as client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(count):
                await room.acquire()
                task = tasks.create_task(self._request(client))
                task.add_done_callback(lambda _: room.release())
        await self._until_quiet()

    async def _until_quiet(self) -> None:
        """Wait until all blocks are free, and as many tasks are left as before any request: a gRPC
        server replaces its own. Of what is not gone in time the report tells."""
        recorder = self.dispatcher
        await self._until(lambda: recorder.num_free == recorder.num_blocks)
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                while len(asyncio.all_tasks()) > self._num_own_tasks:
                    await asyncio.sleep(0.05)

    async def _request(self, client: AsyncClient) -> None:
        random = self._random
        prompt = tuple(random.randrange(VOCAB) for _ in range(random.randint(1, 200)))
        max_tokens = random.randint(1, 12)
        stop_after = random.randrange(max_tokens) if random.random() < CANCELLED_SHARE else None
        expected = expected_mock_tokens(prompt, max_tokens)
        tokens: list[int] = []
        try:
            async with client.stream(
                token_ids=prompt, max_tokens=max_tokens, temperature=0.0, ignore_eos=True
            ) as stream:
                async for delta in stream:
                    tokens += delta.token_ids
                    if stop_after is not None and len(tokens) > stop_after:
                        break
        except TandemError:
            self.num_failed += 1
            return
        self.num_cancelled += stop_after is not None
        self.num_wrong += tokens != expected[: len(tokens)]
        self.num_wrong += stop_after is None and len(tokens) != max_tokens

    async def _footprints(self) -> dict[str, tuple[Footprint, int]]:
        """Of each process, and how many tasks this one has: once all is quiet."""
        gc.collect()
        pids = {"gateway and clients": os.getpid(), "prefill": self.workers[0].pid}
        pids["decode"] = self.workers[1].pid
        tasks = {"gateway and clients": len(asyncio.all_tasks())}
        return {name: (Footprint.of(pid), tasks.get(name, 0)) for name, pid in pids.items()}

    def _report(
        self,
        before: dict[str, tuple[Footprint, int]],
        after: dict[str, tuple[Footprint, int]],
        seconds: float,
    ) -> bool:
        rows, held = [], True
        for name, (then, tasks_then) in before.items():
            now, tasks_now = after[name]
            held = held and now.rss - then.rss <= MAX_GROWTH_BYTES
            held = held and now.files - then.files <= MAX_NEW_FILES
            held = held and now.threads <= then.threads and tasks_now <= tasks_then
            pairs = (
                (f"{then.rss / 2**20:.1f}", f"{now.rss / 2**20:.1f}"),
                (str(then.files), str(now.files)),
                (str(then.threads), str(now.threads)),
                (str(tasks_then or ""), str(tasks_now or "")),
            )
            rows.append([name, *(f"{one} -> {two}" if one else "" for one, two in pairs)])
        print(markdown_table(("Process", "RSS, MiB", "Descriptors", "Threads", "Tasks"), rows))
        recorder = self.dispatcher
        free, blocks = sum(recorder.num_free.values()), sum(recorder.num_blocks.values())
        print(
            f"{self._num_requests:,} requests in {seconds:.0f} s, {self.num_cancelled:,} of them "
            f"cancelled, {self.num_failed} failed, {self.num_wrong} wrong; {free:,} of {blocks:,} "
            "blocks free"
        )
        return held and free == blocks

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not condition():
                self.dispatcher.news.clear()
                await self.dispatcher.news.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS)
    options = parser.parse_args()
    silence_logs()
    return 0 if asyncio.run(Soak(options.requests).run()) else 1


if __name__ == "__main__":
    sys.exit(main())
