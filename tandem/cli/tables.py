"""Where the commands print their tables."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 1000
GAP = 2


def table_console(*, markup: bool = True) -> Console:
    """As wide as the terminal. Without one a program reads, which wants each row in a line."""
    return Console(highlight=False, markup=markup, width=None if sys.stdout.isatty() else WIDE)


def print_rows(
    console: Console,
    rows: Sequence[Mapping[str, str]],
    *,
    numbers: Collection[str],
    less_needed: Sequence[str],
) -> None:
    """Cells by the names of their columns. Of the columns that are `less_needed` as many are left
    out, the first ones first, as a narrow terminal has no room for; what is too wide even then is
    broken, and nothing is cut off."""
    names = list(rows[0])
    for name in less_needed:
        if _width(names, rows) > console.width:
            names.remove(name)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in names:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[name]) for name in names))
    console.print(table)


def _width(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> int:
    widths = (max(map(cell_len, (name, *(row[name] for row in rows)))) for name in names)
    return sum(widths) + GAP * (len(names) - 1)
