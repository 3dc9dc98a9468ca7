"""Plots as SVG: axes, curves, areas, dots. Colours are classes of the page that they stand in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, floor, log10

from tandem.bench.report.html import Html, text

WIDTH, NARROW, HEIGHT = 520, 370, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 34
# Between two labels of an axis, in pixels.
TICK_X, TICK_Y = 70, 36
# From which ratio of its ends on an axis of times is logarithmic.
WIDE = 40.0

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`; a logarithmic one needs `low` above 0. `format` writes its labels."""

    label: str
    low: float
    high: float
    is_log: bool = False
    format: Callable[[float], str] = "{:g}".format

    def share(self, value: float) -> float:
        """Where a value is: 0 at the low end, 1 at the high one; what is beyond is at the end."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.is_log:
            low, high, value = log10(low), log10(high), log10(value)
        return (value - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Round values, `most` at the most."""
        if self.is_log:
            return _log_ticks(self.low, self.high, most)
        step = nice_step((self.high - self.low) / max(1, most))
        first = ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, floor(self.high / step + 1e-9) + 1)]


def amounts_axis(label: str, values: Sequence[float], format: Callable[[float], str]) -> Axis:
    """From 0 to a little more than the greatest."""
    return Axis(label, 0.0, max(max(values, default=0.0) * 1.05, 1e-9), format=format)


def times_axis(label: str, values: Sequence[float], format: Callable[[float], str]) -> Axis:
    """The same, but logarithmic if the values reach from small to large."""
    positive = [each for each in values if each > 0]
    if positive and max(positive) / min(positive) > WIDE:
        return Axis(label, min(positive), max(positive) * 1.05, is_log=True, format=format)
    return amounts_axis(label, values, format)


@dataclass(slots=True)
class Plot:
    """Drawn in order. `y_right` is a second axis, whose curves say so. `width` is that of the half
    of a page, or `NARROW` for a third."""

    title: str
    x: Axis
    y: Axis
    y_right: Axis | None = None
    width: int = WIDTH
    _parts: list[str] = field(default_factory=list)

    def curve(self, points: Sequence[Point], colour: str, on_right: bool = False) -> None:
        """A line through points."""
        if points:
            self._parts.append(f'<path class="curve {colour}" d="{self._path(points, on_right)}"/>')

    def area(self, points: Sequence[Point], colour: str) -> None:
        """What is below a line."""
        if points:
            first, last = self._x(points[0][0]), self._x(points[-1][0])
            base = HEIGHT - BOTTOM
            path = f"{self._path(points)}L{last} {base}L{first} {base}Z"
            self._parts.append(f'<path class="area {colour}" d="{path}"/>')

    def dots(self, points: Sequence[Point], colour: str) -> None:
        """A dot each."""
        self._parts += [
            f'<circle class="dot {colour}" cx="{self._x(x)}" cy="{self._y(y)}" r="3"/>'
            for x, y in points
        ]

    def mark_x(self, value: float) -> None:
        """A line at a value, where it is within."""
        if self.x.low <= value <= self.x.high:
            x = self._x(value)
            self._parts.append(f'<path class="mark" d="M{x} {TOP}V{HEIGHT - BOTTOM}"/>')

    def svg(self) -> Html:
        """The whole."""
        parts = (*self._axes(), *self._parts)
        return Html(
            f'<svg viewBox="0 0 {self.width} {HEIGHT}" role="img" aria-label="{text(self.title)}">'
            + "".join(parts)
            + "</svg>"
        )

    def _axes(self) -> Iterator[str]:
        base, right = HEIGHT - BOTTOM, self.width - self._right
        for value in self.x.ticks((right - LEFT) // TICK_X):
            x = self._x(value)
            yield f'<path class="grid" d="M{x} {TOP}V{base}"/>'
            label = text(self.x.format(value))
            yield f'<text class="middle" x="{x}" y="{base + 14}">{label}</text>'
        for value in self.y.ticks((base - TOP) // TICK_Y):
            y = self._y(value)
            yield f'<path class="grid" d="M{LEFT} {y}H{right}"/>'
            label = text(self.y.format(value))
            yield f'<text class="end" x="{LEFT - 6}" y="{y + 4}">{label}</text>'
        if self.y_right:
            for value in self.y_right.ticks((base - TOP) // TICK_Y):
                y = self._y(value, on_right=True)
                label = text(self.y_right.format(value))
                yield f'<text x="{right + 6}" y="{y + 4}">{label}</text>'
        middle = (LEFT + right) / 2
        yield f'<text class="middle" x="{middle}" y="{HEIGHT - 4}">{text(self.x.label)}</text>'

    @property
    def _right(self) -> int:
        return LEFT if self.y_right else RIGHT

    def _path(self, points: Sequence[Point], on_right: bool = False) -> str:
        return "M" + "L".join(f"{self._x(x)} {self._y(y, on_right)}" for x, y in points)

    def _x(self, value: float) -> float:
        return round(LEFT + self.x.share(value) * (self.width - LEFT - self._right), 1)

    def _y(self, value: float, on_right: bool = False) -> float:
        axis = self.y_right if on_right and self.y_right else self.y
        return round(HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM), 1)


def nice_step(least: float) -> float:
    """The least of 1, 2, 5, 10, 20 ... that is at least so much."""
    power = 10.0 ** floor(log10(max(least, 1e-12)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999999)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2 and 5 of each power of ten, or the powers alone if those are too many."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    for factors in ((1, 2, 5), (1,)):
        ticks = [
            value
            for power in powers
            for factor in factors
            if low <= (value := factor * 10.0**power) <= high
        ]
        if len(ticks) <= most:
            return ticks
    return ticks[:: -(-len(ticks) // max(1, most))]
