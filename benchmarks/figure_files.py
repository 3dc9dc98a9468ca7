"""How plots are drawn and kept: PNG and SVG, the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def without_display() -> None:
    """To be called before the first figure."""
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "tandem"


def save(figure: Figure, folder: Path, name: str) -> None:
    """Both formats."""
    figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
