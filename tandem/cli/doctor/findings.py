"""What the doctor has to say about one thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """A problem stops `tandem up`; with a warning it runs, but worse than it could."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend`: the command, or the flag of `tandem up`, that mends it."""

    subject: str
    text: str
    level: Level = Level.OK
    mend: str = ""


def problem(subject: str, text: str, mend: str = "") -> Finding:
    return Finding(subject, text, Level.PROBLEM, mend)


def warning(subject: str, text: str, mend: str = "") -> Finding:
    return Finding(subject, text, Level.WARNING, mend)
