"""Topologies as the command line writes them: `1p1d`, `2p1d`, `colocated`, `colocated:2`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tandem.core.errors import ConfigError

_DISAGGREGATED = re.compile(r"([1-9]\d{0,2})p([1-9]\d{0,2})d", re.ASCII)
_COLOCATED = re.compile(r"colocated(?::([1-9]\d{0,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Topology:
    """How many workers of each role there are. Without prefill workers the decode workers compute
    the prompts: colocated serving."""

    num_prefill: int
    num_decode: int

    @property
    def num_workers(self) -> int:
        return self.num_prefill + self.num_decode

    def __str__(self) -> str:
        if self.num_prefill == 0:
            return "colocated" if self.num_decode == 1 else f"colocated:{self.num_decode}"
        return f"{self.num_prefill}p{self.num_decode}d"


def parse_topology(text: str) -> Topology:
    """Parse a topology. Raises `ConfigError` that says what would have been right."""
    if match := _DISAGGREGATED.fullmatch(text):
        return Topology(num_prefill=int(match[1]), num_decode=int(match[2]))
    if match := _COLOCATED.fullmatch(text):
        return Topology(num_prefill=0, num_decode=int(match[1] or 1))
    raise ConfigError(
        f"unknown topology {text!r:.60}: write NpMd for N prefill and M decode workers, like 1p1d,"
        " 1p2d or 2p1d, or colocated:N for N workers that do both",
        param="topology",
    )
