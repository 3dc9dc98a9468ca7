"""How a report's numbers are written, on pages and in terminals alike."""

from __future__ import annotations

from collections.abc import Sequence

from tandem.bench.report.figures import Figures, cached_share
from tandem.bench.report.load_report import LoadReport, LoadSpec

# What stands where there is no number: an en dash.
NOTHING = "\u2013"
PACES = {"at once": "all at once", "trace": "as the trace has it"}


def ms_text(milliseconds: float | None) -> str:
    """Three digits that say something."""
    if milliseconds is None:
        return NOTHING
    if milliseconds >= 100:
        return f"{milliseconds:,.0f}"
    return f"{milliseconds:.1f}" if milliseconds >= 10 else f"{milliseconds:.2f}"


def share_text(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def count_text(count: float) -> str:
    return f"{count:,.0f}"


def load_text(load: LoadSpec) -> str:
    """The load in a line."""
    pace = [f"{load.rate:g} requests/s" if load.rate is not None else PACES.get(load.arrivals, "")]
    if load.burstiness != 1:
        pace.append(f"burstiness {load.burstiness:g}")
    if load.concurrency:
        pace.append(f"{load.concurrency} at a time")
    size = f"{load.num_requests} requests" if load.num_requests else f"{load.seconds:g} s"
    if load.warm_up_s:
        size += f" after {load.warm_up_s:g} s"
    tokens = "the same tokens" if load.same_tokens else ""
    return ", ".join(filter(None, [load.workload, *pace, size, tokens]))


def stopped_text(report: LoadReport) -> str:
    """That it was ended early, and why; empty if it was not."""
    if not report.stopped:
        return ""
    return ": ".join(filter(None, ("stopped before its time", report.stop_reason)))


def prompt_text(figures: Figures) -> str:
    """What prompts had, and how much of it was not computed."""
    share = cached_share(figures)
    told = "how many were cached is not told" if share is None else f"{share:.1%} cached"
    return f"prompt tokens: {count_text(figures.num_prompt_tokens)}, {told}"


def uncounted_text(report: LoadReport) -> str:
    """Why figures of tokens are not to be trusted."""
    return (
        f"the server did not count the tokens of {count_text(report.num_uncounted)} answers"
        " (no usage): each piece that came is taken for one"
    )


def more_problems_text(problems: Sequence[tuple[str, int]], num_told: int) -> str:
    """What is left out of a list of problems; empty if nothing is."""
    left = problems[num_told:]
    return f"and {len(left)} more, {sum(count for _, count in left)} times" if left else ""
