"""How plots are drawn and kept: PNG and SVG, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

# matplotlib's settings, by group.
STYLE: Mapping[str, Mapping[str, Any]] = {
    "svg": {"hashsalt": "tandem"},
    "axes": {"labelsize": 8, "titlesize": 8},
    "axes.spines": {"top": False, "right": False},
    "xtick": {"labelsize": 7},
    "ytick": {"labelsize": 7},
    "legend": {"fontsize": 7, "frameon": False},
}


def without_display() -> None:
    """To be called before the first figure."""
    mpl.use("agg")
    for group, settings in STYLE.items():
        mpl.rc(group, **settings)


def save(figure: Figure, folder: Path, name: str) -> None:
    """Both formats."""
    figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
