"""A batch that a prefill worker was given, and is not through with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.core.commands import PrefillChunk


@dataclass(slots=True, eq=False)
class OpenBatch:
    """Its `chunks` are those that wait; others may be in a step. If it `is_done` the controller was
    told so: what still waits is being prepared."""

    batch_id: int
    chunks: Sequence[PrefillChunk]
    max_tokens: int
    is_done: bool = False
