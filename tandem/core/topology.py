"""Topologies as the command line writes them: `1p1d`, `1p2d`, `2p1d`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tandem.core.errors import ConfigError

_DISAGGREGATED = re.compile(r"([1-9]\d{0,2})p([1-9]\d{0,2})d", re.ASCII)
_COLOCATED = re.compile(r"colocated(:[1-9]\d{0,2})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Topology:
    """How many workers of each role there are."""

    num_prefill: int
    num_decode: int

    @property
    def num_workers(self) -> int:
        return self.num_prefill + self.num_decode

    def __str__(self) -> str:
        return f"{self.num_prefill}p{self.num_decode}d"


def parse_topology(text: str) -> Topology:
    """Parse a topology. Raises `ConfigError` that says what would have been right."""
    if match := _DISAGGREGATED.fullmatch(text):
        return Topology(num_prefill=int(match[1]), num_decode=int(match[2]))
    if _COLOCATED.fullmatch(text):
        raise ConfigError(
            f"topology {text!r} is not served yet: write 1p1d, 1p2d, 2p1d or another NpMd",
            param="topology",
        )
    raise ConfigError(
        f"unknown topology {text!r:.60}: write NpMd for N prefill and M decode workers, like 1p1d,"
        " 1p2d or 2p1d",
        param="topology",
    )
