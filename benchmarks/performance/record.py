"""What one run of a benchmark found on one machine, as it is kept."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from performance.table import AnyTable
from tandem.native.library import KernelsMissing, best

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "figures" / "performance"
CPUINFO = Path("/proc/cpuinfo")
NAMES = {"plain": "no vectors", "avx2": "AVX2", "avx512": "AVX-512 and bf16", "amx": "AMX"}


@dataclass(frozen=True)
class Machine:
    """`key` names its folder: figures of one kind of machine replace each other."""

    key: str
    name: str


@dataclass(frozen=True)
class Record:
    """`rows` are those of the table of this name; `settings` say what is not in the command."""

    table: str
    machine: Machine
    date: str
    command: str
    settings: str
    rows: Sequence[dict[str, Any]]

    def rows_of(self, table: AnyTable) -> list[Any]:
        return [table.row(**row) for row in self.rows]

    @property
    def script(self) -> str:
        """Of the command, as `benchmarks/engine.py`."""
        return self.command.split()[1]

    def write(self) -> None:
        """In place of what was found on such a machine before."""
        path = FOLDER / self.machine.key / f"{self.table}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def records(table: str) -> Iterator[Record]:
    """Of all machines, by their keys."""
    for path in sorted(FOLDER.glob(f"*/{table}.json")):
        fields = json.loads(path.read_text())
        yield Record(**{**fields, "machine": Machine(**fields["machine"])})


def this_machine() -> Machine:
    """Its cores, by the instructions that the kernels compute with: these make the difference."""
    try:
        instructions = best().instructions
    except KernelsMissing:
        instructions = "plain"
    cores = len(os.sched_getaffinity(0))
    return Machine(
        f"{instructions}-{cores}-cores", f"{cores} cores with {NAMES[instructions]}, {cpu()}"
    )


def cpu() -> str:
    """Its name; with the family and model, which it may hide."""
    if not CPUINFO.exists():
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", CPUINFO.read_text(), re.M))
    name = found.get("model name", platform.machine())
    numbers = [found.get(key) for key in ("cpu family", "model")]
    return f"{name}, family {numbers[0]}, model {numbers[1]}" if all(numbers) else name
