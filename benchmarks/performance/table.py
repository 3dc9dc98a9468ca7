"""A benchmark's table: what a row is, how it is shown, and what is aimed at."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tandem.bench.markdown import markdown_lines

Row = TypeVar("Row")


@dataclass(frozen=True)
class Bound:
    """What is aimed at: at most so much, or at least."""

    name: str
    value: float
    form: str = ".2f"
    is_least: bool = False

    def __str__(self) -> str:
        return f"{'at least' if self.is_least else 'at most'} {self.value:{self.form}}"

    def is_met(self, figure: float) -> bool:
        return figure >= self.value if self.is_least else figure <= self.value

    def of_cases(self, figures: Sequence[float]) -> str:
        """Each has to meet it: their range, bold if not all do, and then how many."""
        low, high = (f"{end(figures):{self.form}}" for end in (min, max))
        spread = low if low == high else f"{low} to {high}"
        num_met = sum(map(self.is_met, figures))
        if num_met == len(figures):
            return spread
        return f"**{spread}**" + (f", met in {num_met} of {len(figures)}" if num_met else "")

    def of_rounds(self, figures: Sequence[float]) -> str:
        """The median has to meet it, else it is bold; with the range, and how many do."""
        middle = statistics.median(figures)
        low, median, high = (f"{each:{self.form}}" for each in (min(figures), middle, max(figures)))
        shown = median if self.is_met(middle) else f"**{median}**"
        if len(figures) == 1:
            return shown
        num_met = sum(map(self.is_met, figures))
        met = "" if num_met in (0, len(figures)) else f", met in {num_met} of {len(figures)}"
        return f"{shown} ({low} to {high}){met}"


@dataclass(frozen=True)
class Goal(Generic[Row]):
    """A bound, and which figure of a row is held against it: None where the row is not meant."""

    bound: Bound
    figure: Callable[[Row], float | None]

    def reached(self, rows: Iterable[Row]) -> str:
        """Empty where no row is meant."""
        figures = [figure for row in rows if (figure := self.figure(row)) is not None]
        return self.bound.of_cases(figures) if figures else ""


@dataclass(frozen=True)
class Table(Generic[Row]):
    """`row` is a dataclass of what JSON can hold; `columns` say how a row is shown."""

    name: str
    row: Callable[..., Row]
    columns: Mapping[str, Callable[[Row], str]]
    goals: tuple[Goal[Row], ...] = ()

    def lines(self, rows: Iterable[Row]) -> Iterable[str]:
        """Of Markdown, each as soon as its row is there."""
        shown = ([cell(row) for cell in self.columns.values()] for row in rows)
        return markdown_lines(list(self.columns), shown)


AnyTable = Table[Any]


def number(value: float | None, form: str = ".1f") -> str:
    """Empty where it was not noted."""
    return "" if value is None else f"{value:{form}}"


def numbers(*values: float | None, form: str = ".1f") -> str:
    """Beside each other; empty where the first was not noted."""
    return "" if values[0] is None else " / ".join(number(each, form) for each in values)
