"""A comparison as tables of Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from peers.goals import Figure, tokens_per_s, tpot_ms
from peers.records import Records
from tandem.bench.distribution import Distribution
from tandem.bench.markdown import markdown_table
from tandem.bench.summary import Summary

HEADINGS = (
    "Server", "Output tok/s", "TTFT p50 / p99", "TPOT p50", "ITL p50 / p99 / p99.9 / max",
    "Intervals", "Stalls", "Long TTFT p50", "Load's cores", "Problems",
)  # fmt: skip
OURS = "tandem"


# What counts in a workload: higher is better for all but times.
RATIOS: dict[str, tuple[tuple[str, Figure], ...]] = {
    "A": (("tok/s", tokens_per_s),),
    "B": (("tok/s", tokens_per_s),),
    "C": (("TPOT", tpot_ms),),
    "D": (("short tok/s", tokens_per_s),),
}


OVERVIEW = (
    "Server", "A tok/s", "B tok/s", "C ms a token", "D short tok/s",
    "D ITL p50 / p99 / p99.9 / max, ms", "D waits over 80 ms / intervals", "D TTFT p50, ms",
    "Ready, s", "PSS, GiB",
)  # fmt: skip


def overview(records: Records) -> str:
    """A row a server: what counts of all workloads, medians of the rounds; then the ratios."""
    rows = [_overview_row(records, arm) for arm in records.arms()]
    return f"{markdown_table(OVERVIEW, rows)}\n\n{_ratio_table(records)}"


def _overview_row(records: Records, arm: str) -> list[str]:
    a, b, c, d = (records.of(arm, workload) for workload in "ABCD")
    ds = Summary.pooled(d) if d else None
    starts = [each for each in records.starts if each.arm == arm]
    return [
        arm,
        _median([each.tokens_per_s for each in a]),
        _median([each.tokens_per_s for each in b]),
        _ms(Summary.pooled(c).tpot.percentile_ms(50)) if c else "",
        _median([each.tokens_per_s for each in d]),
        f"{_percentiles(ds.itl, 50, 99, 99.9)} / {_ms(ds.itl.max_ms())}" if ds else "",
        f"{ds.figures()['num_stalls']:,} / {len(ds.itl):,}" if ds else "",
        _ms(ds.ttft.percentile_ms(50)) if ds else "",
        _median([each.start_s for each in starts], 1),
        _median([each.pss / 2**30 for each in starts], 2),
    ]


def _median(values: Sequence[float], digits: int = 0) -> str:
    return f"{statistics.median(values):.{digits}f}" if values else ""


def markdown(records: Records) -> str:
    """All tables: a workload each, ratios, starts."""
    parts = [_workload_table(records, each) for each in records.workloads()]
    return "\n\n".join([*parts, _ratio_table(records), _start_table(records)])


def _workload_table(records: Records, workload: str) -> str:
    rows = [
        _workload_row(arm, runs) for arm in records.arms() if (runs := records.of(arm, workload))
    ]
    return f"Workload {workload}; times in ms\n\n" + markdown_table(HEADINGS, rows)


def _workload_row(arm: str, runs: Sequence[Summary]) -> list[str]:
    """Rates are medians with their range; times are of all runs' tokens together."""
    whole = Summary.pooled(runs)
    return [
        arm,
        _spread([each.tokens_per_s for each in runs]),
        _percentiles(whole.ttft, 50, 99),
        _ms(whole.tpot.percentile_ms(50)),
        f"{_percentiles(whole.itl, 50, 99, 99.9)} / {_ms(whole.itl.max_ms())}",
        f"{len(whole.itl):,}",
        str(whole.figures()["num_stalls"]),
        _ms(whole.long_ttft.percentile_ms(50)),
        f"{whole.load_cores:.2f}",
        str(whole.num_problems),
    ]


def _ratio_table(records: Records) -> str:
    ours = [arm for arm in records.arms() if arm.startswith(OURS)]
    peers = [arm for arm in records.arms() if not arm.startswith(OURS)]
    rows = [
        [f"{workload}, {name}: {arm}", *(_ratio(records, arm, peer, workload, f) for peer in peers)]
        for workload in records.workloads()
        for name, f in RATIOS[workload]
        for arm in ours
    ]
    return "Ours / peer, by round\n\n" + markdown_table(("Workload", *peers), rows)


def _ratio(records: Records, arm: str, peer: str, workload: str, figure: Figure) -> str:
    ratios = records.ratios(arm, peer, workload, figure)
    return _spread(ratios, 2) if ratios else ""


def _start_table(records: Records) -> str:
    rows = []
    for arm in records.arms():
        starts = [each for each in records.starts if each.arm == arm]
        if starts:
            gib = statistics.median(each.pss for each in starts) / 2**30
            rows.append([arm, _spread([each.start_s for each in starts], 1), f"{gib:.2f}"])
    return markdown_table(("Server", "Ready after, s", "Memory, GiB (PSS)"), rows)


def _spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and the range where there is one."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _percentiles(times: Distribution, *percents: float) -> str:
    return " / ".join(_ms(times.percentile_ms(each)) for each in percents)


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
