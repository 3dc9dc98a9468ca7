"""docs/performance.md's tables and plots, anew from what is kept in docs/figures/performance.

.venv/bin/python benchmarks/report.py
"""

from __future__ import annotations

from figure_files import without_display
from performance.page import PAGE, with_tables
from performance.plots import draw_all
from performance.record import FOLDER
from plot_peers import draw

if __name__ == "__main__":
    without_display()
    draw_all()
    for path in sorted(FOLDER.glob("*/peers.jsonl")):
        draw(path)
    PAGE.write_text(with_tables(PAGE.read_text()))
