"""How long `tandem up` takes from a warm cache, and what memory its processes then have.

Each start is from the command to the gateway's first 200 on /ready. When each process began, had
loaded its model and served is from the system and the services' own logs. Memory of a worker is
split: the weights' file, the part of the KV pool that has been written so far, the rest.

    .venv/bin/python benchmarks/start.py [--topology 1p1d] [--runs 3] [--model default] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from peers.ours import arm
from rich.console import Console
from rich.table import Table

from tandem.artifacts.resolve import resolve
from tandem.bench.server import Server, running

MODULES = {"prefill_service": "prefill", "decode_service": "decode", "gateway": "gateway"}
MIB = 2**20


@dataclass(frozen=True)
class Process:
    """One of the fleet. Seconds from the command on; memory in bytes.

    `pool` is what of the KV pool is resident: pages come as they are written.
    """

    name: str
    began_s: float
    loaded_s: float | None
    serving_s: float | None
    rss: int
    pss: int
    weights: int
    pool: int

    @property
    def overhead(self) -> int:
        return self.pss - self.weights - self.pool


@dataclass(frozen=True)
class StartRun:
    """One start."""

    ready_s: float
    processes: list[Process]


async def start_once(topology: str, model: Path, folder: Path) -> StartRun:
    """Start, look, end."""
    began = time.time()
    made = arm(topology, model, folder)
    async with running(made, folder) as server:
        return StartRun(server.start_s, list(_processes(server, model, folder / topology, began)))


def _processes(server: Server, model: Path, logs: Path, began: float) -> Iterator[Process]:
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    up = psutil.Process(server.pid)
    yield _process("tandem up", up, up, Path(), began, 0)
    for child in sorted(up.children(), key=lambda each: each.cmdline()):
        role = next(MODULES[word] for word in child.cmdline() if word in MODULES)
        name = role if role == "gateway" else _flag(child.cmdline(), "--worker-id")
        own = 0 if role == "gateway" else weights
        yield _process(name, child, up, logs / f"{name}.log", began, own)


def _flag(command: Sequence[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def _process(
    name: str, process: psutil.Process, up: psutil.Process, log: Path, began: float, weights: int
) -> Process:
    memory = process.memory_full_info()
    text = log.read_text() if log.is_file() else ""
    return Process(
        name=name,
        began_s=process.create_time() - up.create_time(),
        loaded_s=logged_s(text, "loaded", began),
        serving_s=logged_s(text, "serving gRPC", began),
        rss=memory.rss,
        pss=memory.pss,
        weights=weights,
        pool=pool_bytes(Path(f"/proc/{process.pid}/smaps").read_text()) if weights else 0,
    )


def logged_s(log: str, event: str, began: float) -> float | None:
    """When an event was first logged, in seconds after `began`; None if it was not."""
    found = re.search(rf"^(\S+)Z \[\w+ *\] {event}( |$)", log, re.MULTILINE)
    if found is None:
        return None
    return datetime.fromisoformat(found[1] + "+00:00").timestamp() - began


def pool_bytes(smaps: str) -> int:
    """Resident bytes of the largest mapping without a file: the KV pool is larger than all else."""
    largest = resident = 0
    is_largest = False
    for line in smaps.splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            start, end = (int(each, 16) for each in words[0].split("-"))
            is_largest = len(words) == 5 and end - start > largest
            largest = end - start if is_largest else largest
        elif words[0] == "Rss:" and is_largest:
            resident = int(words[1]) * 1024
    return resident


def import_s(module: str) -> float:
    """Seconds for a fresh interpreter to import a module and end, the second time."""
    for _ in range(2):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


IMPORTS = ("tandem.cli.up", "gateway.service", "decode_service.service", "torch")


def time_table(runs: Sequence[StartRun]) -> Table:
    """Medians over the runs."""
    table = Table(title="seconds from the command; medians")
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


def memory_table(run: StartRun) -> Table:
    """Of one start: they hardly differ."""
    table = Table(title="MiB once ready, before the first request")
    for heading in ("process", "RSS", "PSS", "weights", "pool", "overhead"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    for each in run.processes:
        figures = (each.rss, each.pss, each.weights, each.pool, each.overhead)
        table.add_row(each.name, *(f"{figure / MIB:.0f}" for figure in figures))
    return table


def _median(values: Sequence[float | None]) -> str:
    known = [each for each in values if each is not None]
    return f"{statistics.median(known):.2f}" if known else ""


async def main(args: argparse.Namespace) -> list[StartRun]:
    model = resolve(args.model).path
    with TemporaryDirectory() as folder:
        return [
            await start_once(args.topology, model, Path(folder))
            for _ in range(args.runs + 1)  # The first fills the page cache.
        ][1:]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--topology", default="1p1d")
    parser.add_argument("--model", default="default")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="lines of JSON instead of tables")
    arguments = parser.parse_args()
    made = asyncio.run(main(arguments))
    if arguments.json:
        for each in made:
            print(json.dumps(asdict(each)))
    else:
        console = Console(width=100)
        times = sorted(each.ready_s for each in made)
        console.print(
            f"ready after {statistics.median(times):.2f} s ({times[0]:.2f} to {times[-1]:.2f})"
        )
        console.print(time_table(made))
        console.print(memory_table(made[-1]))
        imports = ", ".join(f"{module} {import_s(module):.2f}" for module in IMPORTS)
        console.print(f"imports alone, s: {imports}")
