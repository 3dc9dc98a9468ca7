"""Draws what `tandem bench goodput` wrote down: attainment over rate, each arm's goodput, and how
that goes with the ratio of prefill to decode workers.

.venv/bin/python benchmarks/plot_goodput.py FOLDER   (the sweep's --out)
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import cycle
from pathlib import Path

from figure_files import save, without_display
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from tandem.bench.arms import parse_arm
from tandem.bench.goodput import SHARE, goodput, goodput_interval
from tandem.bench.objectives import CLAIM, GRID, Cell
from tandem.bench.records import Sweep

SPLIT_SHADES = ("#0b5fa5", "#3f8fd2", "#9cc9ef", "#17406d", "#6fb1e8", "#5a7fa8", "#c3def5")
COLOCATED_SHADES = (
    "#d1603d",
    "#e59a7f",
    "#b8a04a",
    "#7a7a7a",
    "#8c3b22",
    "#d9c27a",
    "#a88b8b",
    "#4f7f5f",
    "#000000",
)
# Lines that can be told from each other: of more arms the best of each kind are drawn.
MAX_LINES = 6


def shades(sweep: Sweep, workload: str) -> dict[str, str]:
    """What splits in blue. Of very many arms some share a shade."""
    split, colocated = cycle(SPLIT_SHADES), cycle(COLOCATED_SHADES)
    is_split = set(sweep.split(workload))
    return {arm: next(split if arm in is_split else colocated) for arm in sweep.arms(workload)}


def label(arm: str) -> str:
    """An arm's name without those of its most frequent flags."""
    for flag in ("batching", "prefill-token-budget"):
        arm = arm.replace(f"+{flag}=", ", ")
    return arm.replace("+tpot-target-ms=", ", target ")


def best_arms(sweep: Sweep, workload: str) -> list[str]:
    """At the claim; in the order of all."""
    best: set[str] = set()
    for arms in (sweep.split(workload), sweep.colocated(workload)):
        by_goodput = sorted(arms, key=lambda arm: -goodput(sweep.levels(workload, arm, CLAIM)))
        best.update(by_goodput[:MAX_LINES])
    return [arm for arm in sweep.arms(workload) if arm in best]


def attainments(sweep: Sweep, workload: str) -> Figure:
    """A panel for each pair of bounds: the share of requests that kept to both, over the rate."""
    figure, panels = plt.subplots(2, 3, figsize=(11, 5.6), sharex=True, sharey=True)
    for cell, panel in zip(GRID, panels.flat, strict=True):
        _attainment(panel, sweep, workload, cell)
    for panel in panels[1]:
        panel.set_xlabel("requests/s")
    for panel in panels[:, 0]:
        panel.set_ylabel("attainment")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0, 0.79, 1))
    figure.legend(handles, labels, loc="center right")
    return figure


def _attainment(panel: Axes, sweep: Sweep, workload: str, cell: Cell) -> None:
    colours = shades(sweep, workload)
    for arm in best_arms(sweep, workload):
        levels = sweep.levels(workload, arm, cell)
        rates, shares = zip(*((level.rate, level.attainment) for level in levels), strict=True)
        panel.plot(rates, shares, color=colours[arm], label=label(arm), lw=1.2, marker="o", ms=2.5)
    panel.axhline(SHARE, color="#999999", lw=0.8, ls=":")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_ylim(0, 1.03)
    is_claim = " (the claim)" if cell == CLAIM else ""
    panel.set_title(f"TTFT x {cell[0]:g}, TPOT x {cell[1]:g}{is_claim}")


def goodputs(sweep: Sweep, workload: str) -> Figure:
    """A bar an arm at the claim, with its interval: in the order of the arms, so that the ratios
    stand next to each other."""
    figure, panel = plt.subplots(figsize=(7, 3.6))
    for arm, colour in shades(sweep, workload).items():
        each = goodput_interval(sweep.levels(workload, arm, CLAIM))
        spread = [[max(0.0, each.value - each.low)], [max(0.0, each.high - each.value)]]
        panel.bar(label(arm), each.value, yerr=spread, color=colour, error_kw={"lw": 0.8})
    panel.set_ylabel("goodput, requests/s")
    panel.set_title(f"{workload}: TTFT x {CLAIM[0]:g}, TPOT x {CLAIM[1]:g}")
    plt.setp(panel.get_xticklabels(), rotation=40, ha="right")
    figure.tight_layout()
    return figure


def by_ratio(sweep: Sweep, workload: str) -> Figure:
    """The split arms' goodput at the claim over their prefill workers, a line for each way to run
    them, and the colocated arms', which have none, as level lines."""
    figure, panel = plt.subplots(figsize=(7, 3.6))
    ways: defaultdict[str, list[tuple[int, float, float, float]]] = defaultdict(list)
    for name in sweep.split(workload):
        arm, each = parse_arm(name), goodput_interval(sweep.levels(workload, name, CLAIM))
        way = ", ".join(f"{flag} {value}" for flag, value in arm.options) or "as by default"
        ways[f"split, {way}"].append((arm.topology.num_prefill, each.value, each.low, each.high))
    for (way, points), colour in zip(ways.items(), SPLIT_SHADES, strict=False):
        numbers, values, lows, highs = zip(*sorted(points), strict=True)
        panel.plot(numbers, values, color=colour, label=way, lw=1.4, marker="o", ms=3)
        panel.fill_between(numbers, lows, highs, color=colour, alpha=0.15, lw=0)
    colours = shades(sweep, workload)
    for name in sweep.colocated(workload):
        value = goodput(sweep.levels(workload, name, CLAIM))
        panel.axhline(value, color=colours[name], label=label(name), lw=1.0, ls="--")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("prefill workers, of all devices")
    panel.set_ylabel("goodput, requests/s")
    panel.set_ylim(bottom=0)
    panel.set_title(f"{workload}: TTFT x {CLAIM[0]:g}, TPOT x {CLAIM[1]:g}")
    figure.tight_layout(rect=(0, 0, 0.72, 1))
    figure.legend(fontsize=6.5, loc="center right")
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    without_display()
    made = Sweep.read(folder / "goodput.jsonl")
    for name in made.workloads:
        save(attainments(made, name), folder, f"attainment-{name}")
        save(goodputs(made, name), folder, f"goodput-{name}")
        if len(made.split(name)) > 1:
            save(by_ratio(made, name), folder, f"ratios-{name}")
