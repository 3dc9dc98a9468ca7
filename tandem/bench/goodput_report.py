"""A sweep as tables of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.bench.goodput import (
    Interval,
    Level,
    best_ratio_interval,
    goodput,
    goodput_interval,
    ratio_interval,
)
from tandem.bench.markdown import markdown_table
from tandem.bench.objectives import CLAIM, GRID, Cell, cell_name
from tandem.bench.records import RateSummary, Sweep


def report(sweep: Sweep) -> str:
    """All tables, workload by workload."""
    return "\n\n".join(_workload(sweep, workload) for workload in sweep.workloads)


def verdict(sweep: Sweep, workload: str) -> str:
    """What the claim's cell says of splitting this workload, in one sentence."""
    split, colocated = (
        _best(sweep, workload, arms) for arms in (sweep.split(workload), sweep.colocated(workload))
    )
    if split is None or colocated is None:
        return f"{workload}: there is nothing to compare."
    ratio = best_ratio_interval(
        [sweep.levels(workload, each, CLAIM) for each in sweep.split(workload)],
        [sweep.levels(workload, each, CLAIM) for each in sweep.colocated(workload)],
    )
    if ratio is None:
        return f"{workload}: no colocated arm met the objectives at any rate."
    says = "split" if ratio.low > 1 else "do not split" if ratio.high < 1 else "no difference shown"
    return (
        f"{workload}: {split} has {_interval(ratio)} times the goodput of the best colocated arm"
        f" ({colocated}): {says}."
    )


def _workload(sweep: Sweep, workload: str) -> str:
    return "\n\n".join(
        (
            f"### {workload}",
            _objectives(sweep, workload),
            "Goodput, requests/s, by bounds on TTFT and TPOT as multiples of the best uncontended"
            " arm's (in bold: with 95% intervals); >: all rates that were tried held\n\n"
            + _grid(sweep, workload),
            "Goodput by that of the best colocated arm (95% interval)\n\n"
            + _ratios(sweep, workload),
            f"Every rate, at {cell_name(CLAIM)}; times in ms\n\n" + _rates(sweep, workload),
            verdict(sweep, workload),
        )
    )


def _objectives(sweep: Sweep, workload: str) -> str:
    """What each arm takes alone, with two columns for each tenant."""
    tenants = sweep.bases[workload]
    rows: dict[str, list[str]] = {}
    for each in sweep.uncontended:
        if each.workload == workload:
            rows.setdefault(each.arm, [each.arm]).extend((_ms(each.ttft_s), _ms(each.tpot_s)))
    times = [_ms(each) for own in tenants.values() for each in (own.ttft_s, own.tpot_s)]
    headings = [f"{each}{name} p50, ms" for each in map(_of, tenants) for name in ("TTFT", "TPOT")]
    return markdown_table(("Alone", *headings), [*rows.values(), ["**the best**", *times]])


def _of(tenant: str) -> str:
    return f"{tenant}: " if tenant else ""


def _grid(sweep: Sweep, workload: str) -> str:
    rows = []
    for arm in sweep.arms(workload):
        cells = [_goodput(sweep.levels(workload, arm, cell), cell == CLAIM) for cell in GRID]
        rows.append([arm, *cells])
    return markdown_table(("Arm", *map(_heading, GRID)), rows)


def _ratios(sweep: Sweep, workload: str) -> str:
    rows = []
    for arm in sweep.split(workload):
        ratios = [_ratio(sweep, workload, arm, cell) for cell in GRID]
        rows.append([arm, *("" if each is None else _interval(each) for each in ratios)])
    return markdown_table(("Arm", *map(_heading, GRID)), rows)


def _rates(sweep: Sweep, workload: str) -> str:
    rows = [
        [arm, *_rate_row(run)] for arm in sweep.arms(workload) for run in sweep.of(workload, arm)
    ]
    headings = (
        "Arm", "Rate", "Requests", "Attainment", "TTFT p50 / p90", "TPOT p50 / p90",
        "ITL p50 / p99", "Failed", "Sent late p99", "Load's cores",
    )  # fmt: skip
    return markdown_table(headings, rows)


def _rate_row(run: RateSummary) -> list[str]:
    return [
        f"{run.rate:.2f}",
        str(run.num_requests),
        f"{run.level(CLAIM).attainment:.0%}",
        " / ".join(map(_ms, run.ttft_s[:2])),
        " / ".join(map(_ms, run.tpot_s[:2])),
        " / ".join(f"{each or 0:.1f}" for each in (run.itl_ms[0], run.itl_ms[2])),
        str(run.num_failed),
        _ms(run.late_p99_s),
        f"{run.load_cores:.2f}",
    ]


def _best(sweep: Sweep, workload: str, arms: Sequence[str]) -> str | None:
    """The arm with the highest goodput at the claim."""
    return max(arms, key=lambda arm: goodput(sweep.levels(workload, arm, CLAIM)), default=None)


def _ratio(sweep: Sweep, workload: str, arm: str, cell: Cell) -> Interval | None:
    others = [sweep.levels(workload, each, cell) for each in sweep.colocated(workload)]
    return ratio_interval(sweep.levels(workload, arm, cell), others)


def _goodput(levels: Sequence[Level], is_claim: bool) -> str:
    value = goodput_interval(levels)
    above = ">" if value.value == max(level.rate for level in levels) else ""
    if not is_claim:
        return f"{above}{value.value:.2f}"
    return f"**{above}{value.value:.2f}** ({value.low:.2f} to {value.high:.2f})"


def _interval(each: Interval) -> str:
    return f"{each.value:.2f} ({each.low:.2f} to {each.high:.2f})"


def _heading(cell: Cell) -> str:
    return f"**{cell_name(cell)}**" if cell == CLAIM else cell_name(cell)


def _ms(seconds: float | None) -> str:
    """A percentile of requests that failed is none."""
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.1f}" if seconds < 1 else f"{seconds * 1e3:,.0f}"
