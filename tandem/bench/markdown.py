"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of these cells."""
    return "\n".join(markdown_lines(headings, rows))


def markdown_lines(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Its lines, each as soon as its row is there."""
    for row in chain((headings, ["---"] * len(headings)), rows):
        yield f"| {' | '.join(row)} |"
