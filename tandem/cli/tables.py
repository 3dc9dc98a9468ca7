"""Where the commands print their tables."""

from __future__ import annotations

import sys

from rich.console import Console

WIDE = 1000


def table_console(*, markup: bool = True) -> Console:
    """As wide as the terminal. Without one a program reads, which wants each row in a line."""
    return Console(highlight=False, markup=markup, width=None if sys.stdout.isatty() else WIDE)
