"""What running streams feel of long prompts: their inter-token latency with and without.

Eight streams run without pause (workload D); in every other run a prompt of 2,048 tokens arrives at
an interval. Each pair of runs, one without and one with, goes to the same server; arms and pairs
are interleaved. Shown: the ratio of the streams' p99, its median over the pairs, for each arm.

    .venv/bin/python benchmarks/interference.py [--pairs 5] [--seconds 8]
        [--arms 1p1d,colocated+batching=chunked] [--device cpu] [--out FILE] [--keep]
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from performance.fleet_tables import INTERFERENCE, Interference
from performance.notes import Notes, add_keep
from performance.record import this_machine

from tandem.bench.arms import Arm, parse_arm
from tandem.bench.closed_loop import run_workload, warm_up
from tandem.bench.completion_stream import Endpoint, complete
from tandem.bench.server import cancel_when_told_to_stop, running
from tandem.bench.summary import Summary
from tandem.bench.workload import WORKLOADS, Workload

ARMS = "1p1d,colocated+batching=chunked"
Pair = tuple[Summary, Summary]


def workloads(seconds: float) -> tuple[Workload, Workload]:
    """Without and with long prompts."""
    with_long = replace(WORKLOADS["D"], seconds=seconds)
    return replace(with_long, long=None), with_long


async def measure(arm: Arm, seed: int, args: argparse.Namespace, logs: Path) -> Pair:
    """One pair, on a server of its own; which comes first turns from pair to pair."""
    flags = ("--device", args.device, "--model", args.model)
    async with running(arm.spec(flags, logs), logs) as server:
        ask = partial(complete, Endpoint("127.0.0.1", server.port))
        made = {}
        without, with_long = workloads(args.seconds)
        await warm_up(ask, with_long, seed)
        for each in (without, with_long) if seed % 2 else (with_long, without):
            run = await run_workload(ask, each, seed)
            made[each] = Summary.of(run, each, str(arm), seed)
        return made[without], made[with_long]


async def measure_all(args: argparse.Namespace) -> list[Interference]:
    cancel_when_told_to_stop()
    arms = [parse_arm(each) for each in args.arms.split(",")]
    pairs: defaultdict[str, list[Pair]] = defaultdict(list)
    with TemporaryDirectory(prefix="tandem-interference-") as logs:
        for seed in range(args.pairs):
            turn = seed % len(arms)
            for arm in (*arms[turn:], *arms[:turn]):
                pair = await measure(arm, seed, args, Path(logs))
                pairs[str(arm)].append(pair)
                if args.out:
                    for each in pair:
                        print(each.to_json(), file=args.out, flush=True)
    return [interference(arm, each) for arm, each in pairs.items()]


def interference(arm: str, pairs: Sequence[Pair]) -> Interference:
    without, with_long = zip(
        *([run.itl.percentile_ms(99) or 0.0 for run in pair] for pair in pairs), strict=True
    )
    ratios = [after / before for before, after in zip(without, with_long, strict=True) if before]
    return Interference(
        arm=arm,
        without_ms=without,
        with_ms=with_long,
        ratio=(min(ratios), statistics.median(ratios), max(ratios)),
        num_problems=sum(run.num_problems for pair in pairs for run in pair),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--arms", default=ARMS, help="as `tandem bench goodput` has them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="default")
    parser.add_argument("--out", type=argparse.FileType("w"), help="all runs, as lines of JSON")
    add_keep(parser)
    args = parser.parse_args()
    settings = f"{args.device}, {args.model} model; runs of {args.seconds:g} s, a server each pair"
    notes = Notes(args, this_machine(), settings)
    notes.table(INTERFERENCE, uvloop.run(measure_all(args)))


if __name__ == "__main__":
    main()
