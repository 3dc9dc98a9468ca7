"""How fast does KV reach the decode pool, beside a raw TCP socket?

Two processes, pinned to a core each, as a prefill and a decode worker would be: one with the real
sender and a pool, one with the real receiver, its gRPC server and a pool. For each frame size,
interleaved pairs: a sequence's KV from pool to pool, timed from the first block read until the
commit is acknowledged; and as many bytes over a loopback TCP socket between the same processes, by
`sendall` and `recv_into` of 1 MiB at a time, through socket buffers of 4 MiB (the fastest of what
was tried), timed until the other side, which has all, answers with one byte. Both go from and to
memory that was touched before, and not within the last hundreds of megabytes that were moved. After
each pair what was received is compared with what was sent, in both arms.

Beside the rates stands the processor time that a transfer took, sender + receiver, in seconds a
gigabyte: other work on the machine disturbs it far less.

    .venv/bin/python benchmarks/kv_transfer.py [--pairs 9] [--layout llama-8b] [--keep]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from kv_receiver import (
    CASES,
    FINGERPRINT,
    NUM_REGIONS,
    RAW_CALL_BYTES,
    RAW_SOCKET_BYTES,
    TRANSFER_ID,
    Case,
    Side,
)
from performance.fleet_tables import KV_TRANSFER, KvRate
from performance.notes import Notes, add_keep
from performance.record import this_machine

from tandem.bench.percentiles import quartiles
from tandem.core.commands import Destination
from tandem.core.errors import TandemError
from tandem.core.reports import Span, SpanKind
from tandem.transfer.sender import KvSender
from tandem.transfer.state_guard import StateGuard

KIB = 2**10
FRAME_BYTES = (64 * KIB, 256 * KIB, 1024 * KIB, 2048 * KIB, 4096 * KIB)
TIMEOUT_S = 120
# Moves a region to a region; the seconds that it took.
Arm = Callable[[int, int], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one transfer: seconds on the clock, and of processor time at both ends."""

    seconds: float
    sender_s: float
    receiver_s: float


@dataclass
class Row:
    """A frame size's pairs, and the sizes of all frames."""

    frame_bytes: int
    pairs: list[dict[str, Cost]] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)

    def costs(self, arm: str) -> list[Cost]:
        return [pair[arm] for pair in self.pairs]

    @property
    def ratios(self) -> list[float]:
        return [pair["raw"].seconds / pair["kv"].seconds for pair in self.pairs]


class SenderProcess:
    """The prefill worker's end, and the conductor of the benchmark."""

    def __init__(self, case: Case, receiver: asyncio.subprocess.Process) -> None:
        self._case = case
        self._side = Side(case, seed=1)
        self._receiver = receiver
        self._turn = 0
        self._address = ""
        self._connection: socket.socket | None = None

    async def connect(self) -> None:
        ports = await self._answer()
        self._address = f"127.0.0.1:{ports['kv_port']}"
        self._connection = socket.create_connection(("127.0.0.1", ports["raw_port"]))
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, RAW_SOCKET_BYTES)

    async def measure(self, frame_bytes: int, num_pairs: int) -> Row:
        """One pair to warm up, then `num_pairs` that count."""
        row = Row(frame_bytes)
        outcomes: asyncio.Queue[int | TandemError] = asyncio.Queue()
        sender = KvSender(
            name="benchmark",
            pool=self._side.pool,
            model_fingerprint=FINGERPRINT,
            guard=StateGuard(asyncio.get_running_loop()),
            on_done=lambda _, num_bytes: outcomes.put_nowait(num_bytes),
            on_failed=lambda _, error: outcomes.put_nowait(error),
            on_span=lambda span: self._note(span, row),
            min_frame_bytes=frame_bytes,
            max_frame_bytes=frame_bytes,
        )
        arms: dict[str, Arm] = {
            "kv": partial(self._send_kv, sender, outcomes),
            "raw": self._send_raw,
        }
        for pair in range(num_pairs + 1):
            regions = self._next_regions()
            order = list(arms) if pair % 2 else list(reversed(arms))
            costs = {arm: await self._cost(arms[arm], *regions) for arm in order}
            await self._verify(*regions)
            if pair:
                row.pairs.append(costs)
        await sender.close()
        return row

    def _next_regions(self) -> tuple[int, int]:
        """Where from and where to, so that no region of the receiver gets the same bytes twice in
        a row."""
        turn, self._turn = self._turn, self._turn + 1
        return turn % NUM_REGIONS, (turn + turn // NUM_REGIONS) % NUM_REGIONS

    async def _cost(self, arm: Arm, source: int, target: int) -> Cost:
        before = process_time(), (await self._ask("processor", 0))["seconds"]
        seconds = await arm(source, target)
        after = process_time(), (await self._ask("processor", 0))["seconds"]
        return Cost(seconds, after[0] - before[0], after[1] - before[1])

    async def _send_kv(
        self, sender: KvSender, outcomes: asyncio.Queue[int | TandemError], source: int, target: int
    ) -> float:
        epoch = (await self._ask("reserve", target))["epoch"]
        destination = Destination(self._address, TRANSFER_ID, epoch, 0)
        start = perf_counter()
        sender.start(epoch, destination, self._side.blocks(source))
        transfer = sender.get(epoch)
        assert transfer is not None
        for layer in range(self._case.layout.num_layers):
            transfer.layer_done(layer, self._case.num_tokens)
        transfer.finish(0, None, 0)
        async with asyncio.timeout(TIMEOUT_S):
            outcome = await outcomes.get()
        seconds = perf_counter() - start
        assert outcome == self._case.num_bytes, outcome
        return seconds

    async def _send_raw(self, source: int, target: int) -> float:
        assert self._connection is not None
        await self._ask("raw", target)
        items = self._side.raw_region(source)
        start = perf_counter()
        for offset in range(0, len(items), RAW_CALL_BYTES):
            self._connection.sendall(items[offset : offset + RAW_CALL_BYTES])
        self._connection.recv(1)
        return perf_counter() - start

    async def _verify(self, source: int, target: int) -> None:
        theirs = (await self._ask("digests", target))["digests"]
        if theirs != self._side.digests(source):
            raise SystemExit("what arrived is not what was sent")

    async def _ask(self, command: str, region: int) -> dict[str, Any]:
        assert self._receiver.stdin is not None
        self._receiver.stdin.write(json.dumps([command, region]).encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._receiver.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            line = await self._receiver.stdout.readline()
        if not line:
            raise SystemExit("the receiving process has died")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @staticmethod
    def _note(span: Span, row: Row) -> None:
        if span.kind == SpanKind.FRAME_SENT:
            row.frames.append(span.num_bytes)


async def run(name: str, frame_sizes: list[int], num_pairs: int) -> list[Row]:
    """Start the receiver, measure each frame size."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    receiver = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("kv_receiver.py")), name, str(cores[-1])),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        sender = SenderProcess(CASES[name], receiver)
        await sender.connect()
        return [await sender.measure(size, num_pairs) for size in frame_sizes]
    finally:
        assert receiver.stdin is not None
        receiver.stdin.close()
        await receiver.wait()


def rate(row: Row, gb: float) -> KvRate:
    """Of a frame size."""
    kv, raw = row.costs("kv"), row.costs("raw")
    return KvRate(
        frame_kib=row.frame_bytes / KIB,
        mean_kib=statistics.mean(row.frames) / KIB,
        kv_gbs=statistics.median(gb / each.seconds for each in kv),
        raw_gbs=statistics.median(gb / each.seconds for each in raw),
        ratio=quartiles(row.ratios),
        sender_s=statistics.median(each.sender_s for each in kv) / gb,
        receiver_s=statistics.median(each.receiver_s for each in kv) / gb,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layout", choices=CASES, default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--frame-bytes", type=int, nargs="+", default=list(FRAME_BYTES))
    add_keep(parser)
    args = parser.parse_args()
    case = CASES[args.layout]
    moved = f"{case.num_tokens:,} tokens, {case.num_bytes / 2**20:.0f} MiB of KV"
    notes = Notes(args, this_machine(), f"{args.layout}, {moved}; {args.pairs} pairs, a core each")
    rows = asyncio.run(run(args.layout, args.frame_bytes, args.pairs))
    notes.table(KV_TRANSFER, (rate(row, case.num_bytes / 1e9) for row in rows))


if __name__ == "__main__":
    main()
