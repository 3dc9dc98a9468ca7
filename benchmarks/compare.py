"""Tandem and the peers that are installed, on the workloads A to D, in interleaved rounds.

In each round every arm is started, warmed up and measured, in an order that turns from round to
round, on the same cores as the load. `benchmarks/peers/README.md` says how to install peers; one
that is not there is skipped, loudly.

    .venv/bin/python benchmarks/compare.py [--rounds 3] [--scale 1] [--workloads A B C D]
        [--peers FOLDER] [--arms "tandem 1p1d" vllm ...] [--int4]
        [--out FILE] [--append]

Without `--out` the record is the one that docs/performance.md shows of such a machine.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from peers import llama_cpp, openvino, ours, vllm
from peers.arm import Arm, NotInstalled
from peers.records import Start
from peers.tables import markdown
from performance.record import FOLDER, this_machine
from plot_peers import draw
from rich.console import Console

from tandem.artifacts.cache import cache_dir
from tandem.artifacts.resolve import resolve
from tandem.bench.answer import Answer
from tandem.bench.closed_loop import run_workload, warm_up
from tandem.bench.completion_stream import Endpoint, complete
from tandem.bench.records import partial
from tandem.bench.server import (
    LOG_TAIL,
    CannotStart,
    Server,
    cancel_when_told_to_stop,
    running,
)
from tandem.bench.summary import Summary
from tandem.bench.workload import WORKLOADS, Workload

PEERS = {"tandem": ours, "openvino": openvino, "llama.cpp": llama_cpp, "vllm": vllm}
README = "benchmarks/peers/README.md"
console = Console(stderr=True, highlight=False)


class Comparison:
    """Measures arms; what comes out is lines of JSON."""

    def __init__(self, args: argparse.Namespace, records: Path, logs: Path) -> None:
        self._args = args
        self._records = records
        self._logs = logs
        self._workloads = [WORKLOADS[name].scaled(args.scale) for name in args.workloads]

    async def round(self, arms: Sequence[Arm], seed: int) -> None:
        """Each arm once. One that fails is told of, and the others go on."""
        for arm in arms:
            console.print(f"round {seed}: {arm.name}", style="dim")
            try:
                await (self._serve(arm, seed) if arm.ready_path else self._alone(arm, seed))
            except CannotStart as error:
                console.print(str(error), style="bold red", markup=False)

    async def _serve(self, arm: Arm, seed: int) -> None:
        async with AsyncExitStack() as stack:
            with self._turn():
                server = await stack.enter_async_context(running(arm, self._logs))
            for workload in self._workloads:
                with self._turn():
                    self._write((await _measure(server, workload, seed)).to_json())
            self._write(Start(arm.name, server.start_s, server.pss_bytes()).to_json())

    async def _alone(self, arm: Arm, seed: int) -> None:
        """It runs a workload itself, and prints what we would."""
        for name in self._args.workloads:
            flags = (*("--workloads", name), *("--seed", seed), *("--scale", self._args.scale))
            with self._turn():
                line = await _output(arm, [*arm.command, *map(str, flags)])
            self._write(line)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The machine is ours alone, where all who use it know the lock."""
        if self._args.lock is None:
            yield
            return
        with self._args.lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, line: str) -> None:
        with self._records.open("a") as out:
            out.write(line.strip() + "\n")


async def _measure(server: Server, workload: Workload, seed: int) -> Summary:
    endpoint = Endpoint("127.0.0.1", server.port, server.spec.model)

    async def ask(answer: Answer) -> None:
        await complete(endpoint, answer)

    await warm_up(ask, workload, seed)
    return Summary.of(await run_workload(ask, workload, seed), workload, server.spec.name, seed)


async def _output(arm: Arm, command: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **arm.env},
    )
    out, errors = await process.communicate()
    if process.returncode:
        raise CannotStart(f"{arm.name} ended: {errors.decode(errors='replace')[-LOG_TAIL:]}")
    return out.decode()


def find_arms(peers: Path, wanted: Sequence[str], int4: bool) -> list[Arm]:
    """All that can be measured here, their weights converted; says aloud what cannot, and why."""
    model = resolve("default").path
    arms: list[Arm] = []
    for name, peer in PEERS.items():
        try:
            arms += peer.arms(peers / name, model, int4)
        except NotInstalled as missing:
            console.print(f"SKIPPED {name}: {missing}; see {README}", style="bold yellow")
    if unknown := set(wanted).difference(arm.name for arm in arms):
        names = ", ".join(repr(arm.name) for arm in arms)
        raise SystemExit(f"no arm here is named {unknown.pop()!r}: there are {names}")
    arms = [arm for arm in arms if not wanted or arm.name in wanted]
    for arm in arms:
        for conversion in arm.conversions:
            if not conversion.target.exists():
                console.print(f"converting weights for {arm.name}", style="dim")
                subprocess.run(conversion.command, check=True, capture_output=True)
    return arms


async def main(args: argparse.Namespace) -> None:
    cancel_when_told_to_stop()
    arms = find_arms(args.peers, args.arms, args.int4)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    records = args.out if args.append else partial(args.out)
    records.open("a" if args.append else "w").close()
    with TemporaryDirectory(prefix="tandem-compare-") as logs:
        comparison = Comparison(args, records, Path(logs))
        for seed in range(args.seed, args.seed + args.rounds):
            turn = seed % len(arms)
            await comparison.round([*arms[turn:], *arms[:turn]], seed)
    if not records.read_text():
        raise SystemExit("nothing was measured")
    records.replace(args.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--scale", type=float, default=1.0, help="longer or shorter runs")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--arms", nargs="+", default=[], help="only these, by name")
    parser.add_argument("--int4", action="store_true", help="weights in groups of 4 bits")
    parser.add_argument("--peers", type=Path, default=cache_dir() / "peers")
    parser.add_argument("--out", type=Path, help="lines of JSON")
    parser.add_argument("--append", action="store_true", help="keep the rounds there are")
    parser.add_argument("--lock", type=Path, help="held while measuring, on a shared machine")
    arguments = parser.parse_args()
    name = "peers-int4.jsonl" if arguments.int4 else "peers.jsonl"
    arguments.out = arguments.out or FOLDER / this_machine().key / name
    uvloop.run(main(arguments))
    print(markdown(draw(arguments.out)))
