"""The grid of objectives: the same absolute bounds for all arms, fixed before anything is swept.

Where a load has several tenants, each has bounds of its own: what is soon for a long prompt is not
for a short one.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from tandem.bench.outcome import Objective, Objectives, Outcome, tpots, ttfts

# A cell: how many times the uncontended time to first token, and time per token.
Cell = tuple[float, float]

TTFT_FACTORS = (5.0, 10.0)
TPOT_FACTORS = (1.25, 1.5, 2.0)
GRID: tuple[Cell, ...] = tuple((ttft, tpot) for ttft in TTFT_FACTORS for tpot in TPOT_FACTORS)
# Where the claim is made, and the cell that holds longest.
CLAIM: Cell = (5.0, 1.5)
LOOSEST: Cell = (max(TTFT_FACTORS), max(TPOT_FACTORS))

_TENANT = attrgetter("tenant")


def cell_name(cell: Cell) -> str:
    """As in a table's heading."""
    return f"({cell[0]:g}, {cell[1]:g})"


def uncontended(outcomes: Sequence[Outcome]) -> Objectives | None:
    """What requests take that have an arm for themselves: each tenant's medians. None if one's were
    not served."""
    measured: dict[str, Objective] = {}
    for tenant, own in groupby(sorted(outcomes, key=_TENANT), key=_TENANT):
        served = list(own)
        firsts, rest = ttfts(served), tpots(served)
        if not firsts or not rest:
            return None
        measured[tenant] = Objective(statistics.median(firsts), statistics.median(rest))
    return measured


def best(each: Sequence[Objectives]) -> Objectives:
    """For each tenant the best arm's TTFT, and the best arm's TPOT, which may be another's."""
    return {
        tenant: Objective(
            min(one[tenant].ttft_s for one in each), min(one[tenant].tpot_s for one in each)
        )
        for tenant in each[0]
    }


def objective_grid(base: Objectives) -> dict[Cell, Objectives]:
    """Each cell's bounds."""
    return {
        (ttft, tpot): {
            tenant: Objective(own.ttft_s * ttft, own.tpot_s * tpot) for tenant, own in base.items()
        }
        for ttft, tpot in GRID
    }
