"""What it costs to be watched: processor time of all processes for a token, watched against not.

A batch of streams runs on mock GPUs. In turns it is left to itself and watched: its metrics are
scraped as `deploy/prometheus` does, every 5 s, its timeline is read once a second, and somebody
looks at the page, whose feed has four ticks a second. A round is four turns of the same processes
and streams, watched in the second and third, or in the first and last: sequences grow, and steps
with them, which weighs on both alike. Each round starts anew; what counts is the median of the
rounds' ratios. The watchers, which run here, are not counted.

    .venv/bin/python benchmarks/watching.py [--rounds 7] [--seconds 4] [--batch 16]
        [--profile h100] [--topology 1p1d] [--by metrics timeline page] [--often 1]
        [--keep]

What is small stands out of the noise with `--often 10`: metrics and timeline are then read so many
times as often, and the cost is that part of the difference. The page's pace is the gateway's own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc
import httpx2
from batch_streams import Batch, running_batch
from performance.fleet_tables import WATCHING, Watched
from performance.notes import Notes, add_keep
from performance.record import this_machine
from up import Up

from tandem.v1 import inference_pb2, inference_pb2_grpc

SCRAPED_EVERY_S, READ_EVERY_S = 5.0, 1.0
# Until a watcher has been told the past, or its leaving is through.
SETTLE_S = 1.0


async def scrape(up: Up, often: float) -> None:
    """As Prometheus does."""
    async with httpx2.AsyncClient(base_url=up.url) as client:
        while True:
            (await client.get("/metrics")).raise_for_status()
            await asyncio.sleep(SCRAPED_EVERY_S / often)


async def read_timeline(up: Up, often: float) -> None:
    """As whoever follows it does: what is new."""
    request = inference_pb2.GetTimelineRequest(window_ms=int(READ_EVERY_S * 1000))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{up.grpc_port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        while True:
            await stub.GetTimeline(request)
            await asyncio.sleep(READ_EVERY_S / often)


async def look_at_page(up: Up, often: float) -> None:
    """As a browser does."""
    async with (
        httpx2.AsyncClient(base_url=up.url) as client,
        client.stream("GET", "/page/events") as response,
    ):
        response.raise_for_status()
        async for _ in response.aiter_bytes():
            pass


WATCHERS: Mapping[str, Callable[[Up, float], Awaitable[None]]] = {
    "metrics": scrape,
    "timeline": read_timeline,
    "page": look_at_page,
}


@asynccontextmanager
async def watching(up: Up, by: Sequence[str], often: float) -> AsyncIterator[None]:
    """By each of these, for the time of the block."""
    tasks = [asyncio.ensure_future(WATCHERS[each](up, often)) for each in by]
    try:
        yield
        # A watcher ends only because it cannot go on.
        for task in tasks:
            assert not task.done(), task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def token_s(batch: Batch, args: argparse.Namespace, by: Sequence[str]) -> float:
    """Processor seconds of a token while watched `by` these."""
    async with watching(batch.up, by, args.often):
        await asyncio.sleep(SETTLE_S)
        before = batch.sample()
        await asyncio.sleep(args.seconds)
        after = batch.sample()
    num_tokens = (after.step - before.step) * args.batch
    return (sum(after.cpu_s.values()) - sum(before.cpu_s.values())) / num_tokens


async def round_s(args: argparse.Namespace, is_first_watched: bool) -> tuple[float, float]:
    """Processor seconds of a token when not watched, and when watched."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    async with running_batch(args.batch, args.profile, args.topology) as batch:
        for is_outer in (True, False, False, True):
            is_watched = is_outer is is_first_watched
            by = args.by if is_watched else []
            seconds[is_watched].append(await token_s(batch, args, by))
    return statistics.mean(seconds[False]), statistics.mean(seconds[True])


async def measure(args: argparse.Namespace) -> Watched:
    ratios = []
    for number in range(args.rounds):
        alone, watched = await round_s(args, is_first_watched=number % 2 == 1)
        ratios.append(watched / alone)
        times = f"{alone * 1e6:.2f} us a token, watched {watched * 1e6:.2f}"
        print(f"round {number}: {times}", file=sys.stderr)
    return Watched(
        by=", ".join(args.by),
        batch=args.batch,
        profile=args.profile,
        often=args.often,
        rounds=args.rounds,
        ratio=(min(ratios), statistics.median(ratios), max(ratios)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--profile", default="h100")
    parser.add_argument("--topology", default="1p1d")
    parser.add_argument("--by", nargs="+", choices=WATCHERS, default=list(WATCHERS))
    parser.add_argument("--often", type=float, default=1.0, help="metrics and timeline are read")
    add_keep(parser)
    args = parser.parse_args()
    notes = Notes(
        args, this_machine(), f"{args.topology} on mock GPUs, turns of {args.seconds:g} s"
    )
    notes.table(WATCHING, [asyncio.run(measure(args))])


if __name__ == "__main__":
    main()
