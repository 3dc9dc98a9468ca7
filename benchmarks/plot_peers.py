"""Draws what `compare.py` wrote down, as PNG and SVG, and prints its tables.

.venv/bin/python benchmarks/plot_peers.py RECORD
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import matplotlib as mpl
from figure_files import save, without_display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers.records import Records
from peers.tables import OURS, markdown

from tandem.bench.distribution import MS_PER_COUNT, Distribution
from tandem.bench.summary import STALL_MS, Summary
from tandem.bench.workload import WORKLOADS

OUR_SHADES = ("#0b5fa5", "#3f8fd2", "#9cc9ef")
THEIR_SHADES = ("#d1603d", "#e59a7f", "#7a7a7a", "#5a9367", "#9cc5a1", "#b8a04a")
# Above the median the distances grow: p99.9 has as much room as p99.
TAIL = (50.0, 90.0, 99.0, 99.9, 99.99)
UNITS = {"C": "ms per output token (less is better)"}


def shades(arms: list[str]) -> dict[str, str]:
    """Ours in blue."""
    ours = iter(OUR_SHADES)
    theirs = iter(THEIR_SHADES)
    return {arm: next(ours if arm.startswith(OURS) else theirs, "#000000") for arm in arms}


def rates(records: Records) -> Figure:
    """A panel a workload, a bar an arm; the line on a bar is from the least run to the largest."""
    names = records.workloads()
    figure, panels = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3.6), squeeze=False)
    colours = shades(records.arms())
    for name, panel in zip(names, panels[0], strict=True):
        _bars(panel, records, name, colours)
    figure.tight_layout()
    return figure


def _bars(panel: Axes, records: Records, workload: str, colours: dict[str, str]) -> None:
    arms = [arm for arm in records.arms() if records.of(arm, workload)][::-1]
    for arm in arms:
        values = [_value(run) for run in records.of(arm, workload)]
        middle = statistics.median(values)
        spread = [[middle - min(values)], [max(values) - middle]]
        panel.barh(arm, middle, xerr=spread, color=colours[arm], error_kw={"lw": 0.8})
        panel.annotate(
            f" {middle:.0f}", (max(values), arm), va="center", fontsize=7, annotation_clip=False
        )
    panel.set_title(f"{workload}: {WORKLOADS[workload]}".replace("; ", ";\n"), fontsize=7)
    panel.set_xlabel(UNITS.get(workload, "output tokens/s"))
    panel.margins(x=0.15)


def _value(run: Summary) -> float:
    return (run.tpot.percentile_ms(50) or 0.0) if run.workload in UNITS else run.tokens_per_s


def tails(records: Records, workload: str = "D") -> Figure:
    """How long the wait for a token is at each percentile, from the median up."""
    figure, panel = plt.subplots(figsize=(8.2, 3.8))
    for arm, colour in shades(records.arms()).items():
        if runs := records.of(arm, workload):
            _tail(panel, arm, Summary.pooled(runs).itl, colour)
    panel.axhline(STALL_MS, color="#999999", lw=0.8, ls=":")
    panel.set_xscale("log")
    panel.set_xticks([100 / (100 - each) for each in TAIL], [f"p{each:g}" for each in TAIL])
    panel.minorticks_off()
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
    panel.set_ylabel("ms to the next token")
    panel.set_title(f"{workload}: {WORKLOADS[workload]}")
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    return figure


def _tail(panel: Axes, arm: str, times: Distribution, colour: str) -> None:
    odds, waits, seen = [], [], 0
    for tenths, count in times.to_json():
        seen += count
        share = min(seen / len(times), 1 - 0.5 / len(times))
        if share >= 0.5:
            odds.append(1 / (1 - share))
            waits.append(max(tenths, 1) * MS_PER_COUNT)
    panel.step(odds, waits, where="pre", color=colour, label=arm, lw=1.3)


def draw(file: Path) -> Records:
    """All plots, beside the records."""
    without_display()
    records = Records.read(file)
    save(rates(records), file.parent, f"{file.stem}-rates")
    if "D" in records.workloads():
        save(tails(records), file.parent, f"{file.stem}-tails")
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("records", type=Path)
    print(markdown(draw(parser.parse_args().records)))
