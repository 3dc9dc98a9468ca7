"""Two reports side by side as a page."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.bench.report.comparison import Compared, Comparison
from tandem.bench.report.html import Html, card, element, header, joined, page, table, text
from tandem.bench.report.load_plots import (
    COLOURS,
    itl_cdf,
    latency_cdf,
    legend,
    tpot_cdf,
    ttft_cdf,
)
from tandem.bench.report.load_report import LoadReport
from tandem.bench.report.svg_plot import Axis
from tandem.bench.report.wording import NOTHING, load_text, ms_text, prompt_text

WIDTH, ROW, LABELS = 1000, 26, 190
EDGE = 20


def compare_page(comparison: Comparison, names: Sequence[str]) -> str:
    """A document that stands alone. `names` are what to call the two."""
    first, second = comparison.first, comparison.second
    loads = [[row for row in each.requests if row.served] for each in (first, second)]
    whose = legend(list(zip(names, COLOURS, strict=True)))
    plots = [
        ("Time to first token (TTFT)", ttft_cdf(loads, first.bounds)),
        ("Time per output token (TPOT)", tpot_cdf(loads, first.bounds)),
        ("Between tokens (ITL)", itl_cdf(loads)),
        ("Whole answers", latency_cdf(loads, first.bounds)),
    ]
    title = f"{names[1]} compared with {names[0]}"
    return page(
        title,
        header(title, load_text(first.load)),
        *_differences(comparison),
        card("Ratios: the second by the first, with 95% intervals", _ratios(comparison.rows)),
        card(
            "All figures", table(("", *names, "ratio", "95% interval", ""), _cells(comparison.rows))
        ),
        element("div", joined(card(heading, whose, plot) for heading, plot in plots), "halves"),
        card("Each", table(("", *names), _facts(first, second))),
    )


def compared_texts(row: Compared) -> list[str]:
    """A row's cells: name, both values, ratio, interval, verdict."""
    between = row.interval
    return [
        row.name,
        ms_text(row.first),
        ms_text(row.second),
        NOTHING if row.ratio is None else f"{row.ratio:.3f}",
        "" if between is None else f"{between.low:.3f} to {between.high:.3f}",
        row.verdict,
    ]


def _cells(rows: Sequence[Compared]) -> list[list[str | Html]]:
    cells: list[list[str | Html]] = []
    for row in rows:
        *texts, verdict = compared_texts(row)
        colour = {"better": "good", "worse": "bad"}.get(verdict, "")
        cells.append([*texts, element("span", text(verdict), colour)])
    return cells


def _ratios(rows: Sequence[Compared]) -> Html:
    """A line for each interval, on a logarithmic axis with 1 in the middle."""
    shown = [(row, row.interval) for row in rows if row.interval is not None]
    reach = max([1.1, *(max(each.high, 1 / max(each.low, 1e-3)) for _, each in shown)])
    axis = Axis("", 1 / reach, reach, is_log=True)
    height = ROW * (len(shown) + 1)

    def x(ratio: float) -> float:
        return round(LABELS + axis.share(ratio) * (WIDTH - LABELS - EDGE), 1)

    parts = [f'<path class="grid" d="M{x(1)} 0V{height - ROW + 6}"/>']
    for ratio in (1 / reach, 1.0, reach):
        parts.append(f'<text class="middle" x="{x(ratio)}" y="{height - 4}">{ratio:.2f}</text>')
    for number, (row, between) in enumerate(shown):
        y = ROW * number + ROW / 2
        kind = {"better": "good", "worse": "bad"}.get(row.verdict, "even")
        ends = f"M{x(between.low)} {y}H{x(between.high)}"
        parts.append(f'<text class="strong" x="0" y="{y + 4}">{text(row.name)}</text>')
        parts.append(f'<path class="range {kind}" d="{ends}"/>')
        parts.append(f'<circle class="{kind}" cx="{x(between.value)}" cy="{y}" r="5"/>')
    return Html(
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="ratios">'
        + "".join(parts)
        + "</svg>"
    )


def _differences(comparison: Comparison) -> list[Html]:
    if not comparison.differences:
        return []
    words = joined(
        [
            element("b", text("Not the same load.")),
            text("; ".join(comparison.differences)),
        ]
    )
    return [element("section", element("p", words), "card limit loud")]


def _facts(first: LoadReport, second: LoadReport) -> list[list[str]]:
    both = (first, second)
    return [
        ["url", *(each.target.url for each in both)],
        ["model", *(each.target.model for each in both)],
        ["began", *(each.began_at for each in both)],
        ["prompts", *(prompt_text(each.figures) for each in both)],
        ["requests", *(str(each.figures.num_requests) for each in both)],
        ["failed", *(str(each.figures.num_failed) for each in both)],
        ["limited by", *(f"{each.limit.where}: {each.limit.text}" for each in both)],
    ]
