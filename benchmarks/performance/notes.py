"""How a benchmark says what it finds: to whoever runs it, and with `--keep` for the page."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from performance.record import Machine, Record
from performance.table import Row, Table


def add_keep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep", action="store_true", help="note the figures for docs/performance.md"
    )


class Notes:
    """Of one run, on a machine."""

    def __init__(self, arguments: argparse.Namespace, machine: Machine, settings: str) -> None:
        self._keep = arguments.keep
        self._machine = machine
        self._settings = settings
        print(f"{machine.name}: {settings}\n", flush=True)

    def table(self, table: Table[Row], rows: Iterable[Row]) -> None:
        """Each row is shown as soon as it is there."""
        seen: list[Row] = []

        def passing() -> Iterable[Row]:
            for row in rows:
                seen.append(row)
                yield row

        for line in table.lines(passing()):
            print(line, flush=True)
        print()
        if self._keep:
            date = datetime.now(UTC).date().isoformat()
            kept = [asdict(row) for row in seen]  # type: ignore[call-overload]
            Record(table.name, self._machine, date, command(), self._settings, kept).write()


def command() -> str:
    """As it is typed in the repository's root, without `--keep`."""
    flags = [each for each in sys.argv[1:] if each != "--keep"]
    return shlex.join([".venv/bin/python", f"benchmarks/{Path(sys.argv[0]).name}", *flags])
