"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of these cells."""
    return "\n".join(_lines(headings, rows))


def _lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (headings, ["---"] * len(headings), *rows):
        yield f"| {' | '.join(row)} |"
