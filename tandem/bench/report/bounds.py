"""What a request has to keep to in order to count for goodput."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tandem.bench.report.rows import RequestRow
from tandem.core.errors import ConfigError

# vLLM's names.
NAMES = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2el": "latency_ms"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Milliseconds; what is None is not bounded."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    latency_ms: float | None = None

    def met_by(self, row: RequestRow) -> bool:
        """Whether it kept to all. What failed did not; one token has no time per token."""
        if row.problem:
            return False
        return all(
            (took := getattr(row, name)) is None or took <= bound
            for name in NAMES.values()
            if (bound := getattr(self, name)) is not None
        )

    def __str__(self) -> str:
        return ", ".join(
            f"{short} at most {bound:g} ms"
            for short, name in NAMES.items()
            if (bound := getattr(self, name)) is not None
        )


def parse_bounds(texts: Iterable[str]) -> Bounds | None:
    """`ttft:500` and the like, each by itself or with commas between; None if there are none.
    Raises `ConfigError`."""
    bounds: dict[str, float] = {}
    for part in (part for text in texts for part in re.split(r"[,\s]+", text) if part):
        match = re.fullmatch(r"([a-z0-9]+):(\d+(?:\.\d+)?)", part, re.ASCII)
        if match is None or match[1] not in NAMES:
            raise ConfigError(
                f"unknown bound {part!r:.40}: write ttft:MS, tpot:MS or e2el:MS", param="goodput"
            )
        bounds[NAMES[match[1]]] = float(match[2])
    return Bounds(**bounds) if bounds else None
