"""How plots are drawn and kept: PNG and SVG, the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

STYLE: Any = {
    "svg.hashsalt": "tandem",
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 7,
    "legend.frameon": False,
}


def without_display() -> None:
    """To be called before the first figure."""
    mpl.use("agg")
    mpl.rcParams.update(STYLE)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Both formats."""
    figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
