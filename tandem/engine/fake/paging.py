"""From block tables to places in the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """Positions [begin, end), not empty, of the sequence whose blocks are `block_table`."""

    begin: int
    end: int
    block_table: Sequence[int]


@dataclass(frozen=True, slots=True)
class TokenSlots:
    """The tokens of some spans, one after the other. Per token its `positions` in the sequence and
    its `slots` in the pool (block * block_size + offset); per span, `starts`: its first token."""

    positions: Index
    slots: Index
    starts: Index


def locate(spans: Sequence[Span], block_size: int) -> TokenSlots:
    """Find all tokens of `spans`. O(tokens), and not O(context)."""
    begins, ends = _array([s.begin for s in spans]), _array([s.end for s in spans])
    counts = ends - begins
    starts = np.cumsum(counts) - counts
    positions = np.arange(counts.sum()) + np.repeat(begins - starts, counts)
    blocks, bases = _join_tables(spans, block_size)
    logical = positions // block_size
    block = blocks[np.repeat(bases, counts) + logical]
    return TokenSlots(positions, (block - logical) * block_size + positions, starts)


def _join_tables(spans: Sequence[Span], block_size: int) -> tuple[Index, Index]:
    """The blocks that the spans touch, and per span what to add to a logical block's number to find
    it among them."""
    blocks: list[int] = []
    bases: list[int] = []
    for span in spans:
        first = span.begin // block_size
        bases.append(len(blocks) - first)
        blocks.extend(span.block_table[first : -(-span.end // block_size)])
    return _array(blocks), _array(bases)


def _array(values: Sequence[int]) -> Index:
    return np.array(values, np.int64)
