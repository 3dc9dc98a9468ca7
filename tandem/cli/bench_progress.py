"""How far a load has come, on a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tandem.bench.load_run import Look
from tandem.bench.report.wording import NOTHING, ms_text
from tandem.bench.watch import Asked, Watch

# Seldom and short: what draws is what measures.
INTERVAL_S = 1.0
NUM_RECENT = 200


def progress(console: Console) -> Look | None:
    """Two lines that are drawn anew once a second; None if nobody would see them."""
    if not console.is_terminal:
        return None

    async def look(watch: Watch) -> None:
        start_s = perf_counter()
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(progress_text(watch, perf_counter() - start_s), refresh=True)
                await asyncio.sleep(INTERVAL_S)

    return look


def progress_text(watch: Watch, elapsed_s: float) -> Text:
    """What is done, and the times of the newest requests."""
    recent = [each for each in watch.asked[-2 * NUM_RECENT :] if each.answer.arrivals][-NUM_RECENT:]
    text = Text(no_wrap=True)
    text.append(f"{elapsed_s:6.0f} s  ", "bold")
    text.append(f"{watch.num_ended:,} done, {watch.num_running:,} under way, ")
    text.append(f"{watch.num_failed:,} failed", "bold red" if watch.num_failed else "dim")
    text.append(f"  {watch.num_ended / max(elapsed_s, 1e-9):.2f} requests/s\n", "dim")
    text.append("          of late: ", "dim")
    text.append(f"TTFT {_median_ms(_firsts_s(recent))}")
    text.append(f"  between tokens {_median_ms(_gaps_s(recent))}")
    return text


def _firsts_s(asked: Sequence[Asked]) -> list[float]:
    return [each.answer.arrivals[0][0] - each.due_s for each in asked]


def _gaps_s(asked: Sequence[Asked]) -> list[float]:
    """Of each answer the mean so far."""
    return [each.answer.tpot_s() for each in asked if each.answer.num_tokens > 1]


def _median_ms(seconds: Sequence[float]) -> str:
    return f"{ms_text(median(seconds) * 1e3)} ms" if seconds else NOTHING
