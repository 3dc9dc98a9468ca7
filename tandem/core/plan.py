"""What an engine is asked to do in one step, and what it answers.

A step is a set of slices, each some consecutive tokens of one sequence. A decode step is slices of
one token, a prefill batch is slices of whole prompts or of chunks; an engine makes no difference
between them, and a plan may mix both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.core.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """Sample the token that follows a slice. With the position and the logits this is all that the
    choice depends on."""

    params: SamplingParams
    choice_index: int = 0


@dataclass(frozen=True, slots=True)
class SequenceSlice:
    """Tokens `[start, start + len(token_ids))` of a sequence: at most one slice of it in a plan.

    `sequence_id` is never used again for another sequence as long as the engine lives.
    `block_table` lists the pool blocks of positions `[0, start + len(token_ids))`, in order; the KV
    of positions before `start` is in the pool already. With `sample`, the engine answers with the
    token for position `start + len(token_ids)`.
    """

    sequence_id: int
    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    sample: SampleSpec | None

    @property
    def end(self) -> int:
        """One past the last position that the slice computes."""
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. `number` counts the steps of a worker since its start."""

    number: int
    slices: tuple[SequenceSlice, ...]

    @property
    def num_tokens(self) -> int:
        return sum(len(each.token_ids) for each in self.slices)


@dataclass(frozen=True, slots=True)
class StepResult:
    """`tokens[i]` is the token sampled for `plan.slices[i]`, None where none was asked for."""

    tokens: tuple[int | None, ...]
