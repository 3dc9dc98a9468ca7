"""What became of a fault, and of all tries of a scenario: figures, and their table."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from statistics import median

from watched import Watched

from tandem.bench.markdown import markdown_table

HEADINGS = (
    "Scenario",
    "Faults",
    "Survived",
    "Requests",
    "Cancelled",
    "Detected, p50 / max",
    "Longest pause, p50 / max",
    "Failed",
    "Wrong or doubled tokens",
    "Hung",
    "Blocks leaked",
)


@dataclass
class Outcome:
    """A scenario's figures for one try, or for several that were made at once. `detected_s` and
    `pause_s` have an entry a fault, where there is something to measure."""

    scenario: str
    faults: int = 0
    survived: int = 0
    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    wrong: int = 0
    hung: int = 0
    leaked: int = 0
    detected_s: list[float] = field(default_factory=list)
    pause_s: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def count(self, watched: Sequence[Watched], faults: int = 1) -> None:
        """Take in what became of the requests of `faults` faults: these were survived if every
        request did."""
        failed = [each for each in watched if each.error and not each.cancelled]
        short = [each for each in watched if each.served_by and not each.is_whole]
        num_hung = sum(each.hangs for each in watched)
        self.faults += faults
        self.survived += max(0, faults - len(failed) - len(short) - num_hung)
        self.requests += len(watched)
        self.cancelled += sum(each.cancelled for each in watched)
        self.failed += len(failed)
        self.wrong += max(sum(each.num_wrong for each in watched), len(short))
        self.hung += num_hung
        self.reasons += sorted({f"{each.error.reason}: {each.error.message}" for each in failed})

    def add(self, other: Outcome) -> None:
        for name, value in asdict(other).items():
            if name != "scenario":
                setattr(self, name, getattr(self, name) + value)

    def is_clean(self, max_detected_s: float = inf, max_pause_s: float = inf) -> bool:
        """Whether nothing was lost, and nothing took longer than it may."""
        damage = (self.failed, self.wrong, self.hung, self.leaked)
        is_late = self.too_late(max_detected_s, max_pause_s)
        return self.survived == self.faults and not any(damage) and not is_late

    def too_late(self, max_detected_s: float = inf, max_pause_s: float = inf) -> list[str]:
        """What took longer than it may, in words."""
        times = (("detected after", self.detected_s, max_detected_s),
                 ("a pause of", self.pause_s, max_pause_s))  # fmt: skip
        return [
            f"{what} {each:.2f} s, of {limit:g} s at the most"
            for what, seconds, limit in times
            for each in seconds
            if each > limit
        ]


def append(path: Path, outcome: Outcome) -> None:
    with path.open("a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def read(path: Path) -> dict[str, Outcome]:
    """All that is noted, by scenario."""
    totals: dict[str, Outcome] = {}
    for line in path.read_text().splitlines():
        outcome = Outcome(**json.loads(line))
        totals.setdefault(outcome.scenario, Outcome(outcome.scenario)).add(outcome)
    return totals


def table(outcomes: Iterable[Outcome]) -> str:
    """In Markdown, with a line of sums."""
    outcomes = list(outcomes)
    total = Outcome("All")
    for each in outcomes:
        total.add(each)
    total.detected_s, total.pause_s = [], []
    return markdown_table(HEADINGS, [_row(each) for each in (*outcomes, total)])


def without_run(names: Iterable[str], recorded: Collection[str]) -> str:
    """What there is to say of the scenarios that no run is recorded of; empty if there are none."""
    missing = [each for each in names if each not in recorded]
    return f"No run is recorded of: {'; '.join(missing)}." if missing else ""


def _row(outcome: Outcome) -> list[str]:
    counts = (outcome.faults, outcome.survived, outcome.requests, outcome.cancelled)
    damage = (outcome.failed, outcome.wrong, outcome.hung, outcome.leaked)
    times = (_times(outcome.detected_s), _times(outcome.pause_s))
    return [outcome.scenario, *(f"{each:,}" for each in counts), *times, *map(str, damage)]


def _times(seconds: list[float]) -> str:
    if not seconds:
        return ""
    return f"{median(seconds):.2f} s / {max(seconds):.2f} s"
