"""Two reports of the same load side by side: ratios, with intervals where requests give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tandem.bench.goodput import Interval, interval
from tandem.bench.percentiles import percentiles, weighted_percentiles
from tandem.bench.report.figures import Figures
from tandem.bench.report.load_report import LoadReport, LoadSpec
from tandem.bench.report.rows import RequestRow
from tandem.core.errors import ConfigError

NUM_RESAMPLES = 500
# Of more times between tokens than this every n-th is resampled, which takes a second.
MAX_VALUES = 100_000

# What is not named by a flag of the field's own name: how prompts are put, and how requests arrive,
# follow from several.
NAMES = {
    "prompts": "prompts",
    "arrivals": "arrivals",
    "num_requests": "--requests",
    "warm_up_s": "--warm-up",
    "timeout_s": "--timeout",
}

# A metric's values by request.
Values = Callable[[RequestRow], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric. `ratio` is the second by the first, None if there is none; it has no `interval`
    where a run has but one number of it. `more_is_better` says which way is good."""

    name: str
    first: float | None
    second: float | None
    ratio: float | None
    interval: Interval | None
    more_is_better: bool

    @property
    def verdict(self) -> str:
        """`better` or `worse`, if the interval says so; else empty."""
        if self.interval is None or self.interval.low <= 1 <= self.interval.high:
            return ""
        return "better" if (self.interval.low > 1) is self.more_is_better else "worse"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`differences` are what is not alike in the loads: the ratios are then of two things at
    once."""

    first: LoadReport
    second: LoadReport
    rows: list[Compared]
    differences: list[str]


def _ttft(row: RequestRow) -> Sequence[float]:
    return () if row.ttft_ms is None else (row.ttft_ms,)


def _tpot(row: RequestRow) -> Sequence[float]:
    return () if (tpot_ms := row.tpot_ms) is None else (tpot_ms,)


def _itl(row: RequestRow) -> Sequence[float]:
    return row.chunk_ms


def _latency(row: RequestRow) -> Sequence[float]:
    return () if row.latency_ms is None else (row.latency_ms,)


TIMES: tuple[tuple[str, Values, Sequence[float]], ...] = (
    ("TTFT", _ttft, (50, 90, 99)),
    ("TPOT", _tpot, (50, 90, 99)),
    ("ITL", _itl, (50, 99)),
    ("latency", _latency, (50, 99)),
)
RATES: tuple[tuple[str, Callable[[Figures], float | None]], ...] = (
    ("output tokens/s", lambda figures: figures.output_tokens_per_s),
    ("requests/s", lambda figures: figures.requests_per_s),
    ("goodput, requests/s", lambda figures: figures.goodput_per_s),
)


def compare(
    first: LoadReport, second: LoadReport, *, anyway: bool = False, seed: int = 0
) -> Comparison:
    """The second by the first. Raises `ConfigError` if they are of different loads, unless that is
    wanted `anyway`."""
    differences = load_differences(first.load, second.load)
    if first.bounds != second.bounds:
        differences.append(f"--goodput: {_said(first.bounds)} / {_said(second.bounds)}")
    if differences and not anyway:
        raise ConfigError(
            f"these are of different loads ({'; '.join(differences)}): --anyway compares them"
        )
    rows = [_rate(name, of(first.figures), of(second.figures)) for name, of in RATES]
    rng = np.random.default_rng(seed)
    for name, values, percents in TIMES:
        rows += _times(name, _sample(first, values), _sample(second, values), percents, rng)
    return Comparison(first, second, rows, differences)


def load_differences(first: LoadSpec, second: LoadSpec) -> list[str]:
    """`--rate: 2 / 4` and the like. What an older report does not say is no difference."""
    return [
        f"{_name(each.name)}: {_said(one)} / {_said(other)}"
        for each in fields(LoadSpec)
        if (one := getattr(first, each.name)) != (other := getattr(second, each.name))
        and not (each.default is None and None in (one, other))
    ]


def _name(field: str) -> str:
    return NAMES.get(field) or f"--{field.replace('_', '-')}"


def _said(value: object) -> str:
    match value:
        case None | "":
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
    return str(value)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Values in order, and whose each is: resampling draws requests, whose values go together."""

    values: NDArray[np.float64]
    owners: NDArray[np.int64]
    num_owners: int

    def resamples(self, percents: Sequence[float], rng: np.random.Generator) -> NDArray[np.float64]:
        """`[NUM_RESAMPLES, num_percents]`; NaN where a resample has no values."""
        even = np.full(self.num_owners, 1 / self.num_owners)
        draws = (rng.multinomial(self.num_owners, even) for _ in range(NUM_RESAMPLES))
        return np.array(
            [weighted_percentiles(self.values, draw[self.owners], percents) for draw in draws]
        )


def _sample(report: LoadReport, values: Values) -> _Sample | None:
    """Those of all served requests that have any; None if none has."""
    each = [found for row in report.requests if row.served and (found := values(row))]
    if not each:
        return None
    flat = np.concatenate([np.asarray(found, dtype=np.float64) for found in each])
    owners = np.repeat(np.arange(len(each)), [len(found) for found in each])
    if len(flat) > MAX_VALUES:
        stride = -(-len(flat) // MAX_VALUES)
        flat, owners = flat[::stride], owners[::stride]
    order = np.argsort(flat, kind="stable")
    return _Sample(flat[order], owners[order], len(each))


def _times(
    name: str,
    first: _Sample | None,
    second: _Sample | None,
    percents: Sequence[float],
    rng: np.random.Generator,
) -> list[Compared]:
    names = [f"{name} p{percent:g}, ms" for percent in percents]
    if first is None or second is None:
        return [Compared(each, None, None, None, None, more_is_better=False) for each in names]
    points = zip(
        percentiles(first.values, percents), percentiles(second.values, percents), strict=True
    )
    resamples = first.resamples(percents, rng), second.resamples(percents, rng)
    return [
        _time(each, float(one), float(other), resamples[0][:, column], resamples[1][:, column])
        for column, (each, (one, other)) in enumerate(zip(names, points, strict=True))
    ]


def _time(
    name: str,
    first: float,
    second: float,
    bases: NDArray[np.float64],
    others: NDArray[np.float64],
) -> Compared:
    ratio = second / first if first > 0 else None
    known = (bases > 0) & ~np.isnan(others)
    return Compared(
        name,
        first,
        second,
        ratio,
        interval(ratio, others[known] / bases[known]) if ratio and known.any() else None,
        more_is_better=False,
    )


def _rate(name: str, first: float | None, second: float | None) -> Compared:
    ratio = second / first if first and second is not None else None
    return Compared(name, first, second, ratio, None, more_is_better=True)
