"""The grid of objectives: the same absolute bounds for all arms, fixed before anything is swept."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from tandem.bench.outcome import Objective, Outcome, tpots, ttfts

# A cell: how many times the uncontended time to first token, and time per token.
Cell = tuple[float, float]

TTFT_FACTORS = (5.0, 10.0)
TPOT_FACTORS = (1.25, 1.5, 2.0)
GRID: tuple[Cell, ...] = tuple((ttft, tpot) for ttft in TTFT_FACTORS for tpot in TPOT_FACTORS)
# Where the claim is made, and the cell that holds longest.
CLAIM: Cell = (5.0, 1.5)
LOOSEST: Cell = (max(TTFT_FACTORS), max(TPOT_FACTORS))


def uncontended(outcomes: Sequence[Outcome]) -> Objective | None:
    """What requests take that have an arm for themselves: medians. None if none was served."""
    firsts, rest = ttfts(outcomes), tpots(outcomes)
    if not firsts or not rest:
        return None
    return Objective(statistics.median(firsts), statistics.median(rest))


def best(each: Iterable[Objective]) -> Objective:
    """The best arm's TTFT, and the best arm's TPOT, which may be another's."""
    measured = list(each)
    return Objective(min(one.ttft_s for one in measured), min(one.tpot_s for one in measured))


def objective_grid(base: Objective) -> dict[Cell, Objective]:
    """Each cell's bounds."""
    return {(ttft, tpot): Objective(base.ttft_s * ttft, base.tpot_s * tpot) for ttft, tpot in GRID}
