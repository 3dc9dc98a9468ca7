"""How long `tandem up` takes from a warm cache, and what memory its processes then have.

Each start is from the command to the gateway's first 200 on /ready. When each process began, had
loaded its model and served is from the system and the services' own logs. Memory is counted in
proportional shares, a page that two processes have for a half in each, and split: the file of
packed weights, the part of the KV pool that has been written so far, the rest. Of this, what is of
files is code, nearly all; what is not is what the process has made for itself.

    .venv/bin/python benchmarks/start.py [--topology 1p1d colocated] [--quantization none int4] \
        [--runs 3] [--model default] [--keep]
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from performance.fleet_tables import READY, START, Memory, ReadyProcess, Started
from performance.notes import Notes, add_keep
from performance.record import this_machine
from processes import role_of
from rich.console import Console
from rich.table import Table

from tandem.artifacts.resolve import resolve
from tandem.bench.arms import parse_arm
from tandem.bench.server import Server, running

# A KV pool is larger than anything else without a file, and than this.
LEAST_POOL = 2**30


@dataclass(frozen=True)
class Process:
    """One of the fleet. Seconds from the command on."""

    name: str
    began_s: float
    loaded_s: float | None
    serving_s: float | None
    memory: Memory


@dataclass(frozen=True)
class StartRun:
    """One start."""

    arm: str
    ready_s: float
    processes: list[Process]


async def start_once(topology: str, quantization: str, model: Path, folder: Path) -> StartRun:
    """Start, look, end."""
    began = time.time()
    flags = ("--model", str(model), "--quantization", quantization)
    async with running(parse_arm(topology).spec(flags, folder), folder) as server:
        processes = list(_processes(server, folder / topology, began))
    return StartRun(f"{topology}, {quantization}", server.start_s, processes)


def _processes(server: Server, logs: Path, began: float) -> Iterator[Process]:
    up = psutil.Process(server.pid)
    yield _process("tandem up", up, up, Path(), began)
    for child in sorted(up.children(), key=lambda each: each.cmdline()):
        role = role_of(child)
        name = role if role == "gateway" else _flag(child.cmdline(), "--worker-id")
        yield _process(name, child, up, logs / f"{name}.log", began)


def _flag(command: Sequence[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def _process(
    name: str, process: psutil.Process, up: psutil.Process, log: Path, began: float
) -> Process:
    text = log.read_text() if log.is_file() else ""
    return Process(
        name=name,
        began_s=process.create_time() - up.create_time(),
        loaded_s=logged_s(text, "loaded", began),
        serving_s=logged_s(text, "serving gRPC", began),
        memory=memory_of(Path(f"/proc/{process.pid}/smaps").read_text()),
    )


def logged_s(log: str, event: str, began: float) -> float | None:
    """When an event was first logged, in seconds after `began`; None if it was not."""
    found = re.search(rf"^(\S+)Z \[\w+ *\] {event}( |$)", log, re.MULTILINE)
    if found is None:
        return None
    return datetime.fromisoformat(found[1] + "+00:00").timestamp() - began


@dataclass
class Mapping:
    """A range of a process's memory, in bytes; `file` is empty if there is none."""

    file: str
    size: int
    rss: int = 0
    pss: int = 0


def memory_of(smaps: str) -> Memory:
    """From a process's `/proc/PID/smaps`."""
    mappings = list(_mappings(smaps))
    weights = [each for each in mappings if each.file.endswith(".weights")]
    files = [each for each in mappings if each.file.startswith("/") and each not in weights]
    anonymous = [each for each in mappings if not each.file and each.size >= LEAST_POOL]
    pool = max(anonymous, key=lambda each: each.size, default=None)
    return Memory(
        pss=sum(each.pss for each in mappings),
        mapped=sum(each.rss for each in weights),
        weights=sum(each.pss for each in weights),
        pool=pool.pss if pool else 0,
        files=sum(each.pss for each in files),
    )


def _mappings(smaps: str) -> Iterator[Mapping]:
    mapping: Mapping | None = None
    for line in smaps.splitlines():
        first, *words = line.split()
        if not first.endswith(":"):
            if mapping:
                yield mapping
            start, end = (int(each, 16) for each in first.split("-"))
            mapping = Mapping(" ".join(words[4:]), end - start)
        elif mapping and first == "Rss:":
            mapping.rss = int(words[0]) * 1024
        elif mapping and first == "Pss:":
            mapping.pss = int(words[0]) * 1024
    if mapping:
        yield mapping


def import_s(module: str) -> float:
    """Seconds for a fresh interpreter to import a module and end, the second time."""
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


IMPORTS = ("tandem.cli.up", "gateway.service", "decode_service.service", "torch")


def time_table(runs: Sequence[StartRun]) -> Table:
    """Medians over the runs of one arm."""
    table = Table(title=f"{runs[0].arm}: seconds from the command; medians")
    for heading in ("process", "began", "loaded", "serving"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for index, process in enumerate(runs[0].processes):
        each = [run.processes[index] for run in runs]
        table.add_row(
            process.name,
            _median([one.began_s for one in each]),
            _median([one.loaded_s for one in each]),
            _median([one.serving_s for one in each]),
        )
    return table


def started(runs: Sequence[StartRun]) -> Started:
    times = [each.ready_s for each in runs]
    return Started(runs[0].arm, (min(times), statistics.median(times), max(times)))


def ready(run: StartRun) -> Iterator[ReadyProcess]:
    """Of one start: they hardly differ."""
    for process in run.processes:
        yield ReadyProcess(**asdict(process.memory), arm=run.arm, process=process.name)


def _median(values: Sequence[float | None]) -> str:
    known = [each for each in values if each is not None]
    return f"{statistics.median(known):.2f}" if known else ""


async def measure(args: argparse.Namespace) -> list[list[StartRun]]:
    """The runs of each arm."""
    model = resolve(args.model).path
    with TemporaryDirectory() as folder:
        return [
            [
                await start_once(topology, quantization, model, Path(folder))
                for _ in range(args.runs + 1)  # The first fills the page cache.
            ][1:]
            for topology in args.topology
            for quantization in args.quantization
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--topology", nargs="+", default=["1p1d", "colocated"])
    parser.add_argument("--quantization", nargs="+", default=["none"])
    parser.add_argument("--model", default="default")
    parser.add_argument("--runs", type=int, default=3)
    add_keep(parser)
    args = parser.parse_args()
    notes = Notes(args, this_machine(), f"warm cache, {args.runs} starts")
    arms = asyncio.run(measure(args))
    notes.table(START, map(started, arms))
    notes.table(READY, chain.from_iterable(ready(runs[-1]) for runs in arms))
    console = Console(width=100)
    for runs in arms:
        console.print(time_table(runs))
    imports = ", ".join(f"{module} {import_s(module):.2f}" for module in IMPORTS)
    console.print(f"imports alone, s: {imports}")


if __name__ == "__main__":
    main()
