"""What an engine is asked to do in one step, and what it answers.

A step is a set of slices, each some consecutive tokens of one sequence. A decode step is slices of
one token, a prefill batch is slices of whole prompts or of chunks; an engine makes no difference
between them, and a plan may mix both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tandem.core.errors import TandemError
from tandem.core.logprobs import LogprobColumns, TokenLogprobs
from tandem.core.sampling_params import SamplingParams

PENDING = -1
"""In a slice, stands for the token that the step before samples for the sequence: of an engine that
runs ahead."""


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """Sample the token that follows a slice. With the position and the logits this is all that the
    choice depends on.

    `prompt_token_ids` and `token_ids` are the sequence's own, up to the slice's end: what penalties
    and the grammar look at. They are the worker's lists, not copies: to be read before the step's
    result is handed out.
    """

    params: SamplingParams
    choice_index: int = 0
    prompt_token_ids: Sequence[int] = ()
    token_ids: Sequence[int] = ()


class ScoreSpec(NamedTuple):
    """Say how likely tokens are that are there already: `targets[i]` behind the slice's i-th, of
    which the last ones may have none; and the `num_top` likeliest at each of these places."""

    targets: Sequence[int]
    num_top: int

    @classmethod
    def of(cls, params: SamplingParams, targets: Sequence[int]) -> ScoreSpec | None:
        """What a sequence asks of its prompt's tokens behind a slice's, if anything."""
        num_top = params.prompt_logprobs
        return None if num_top is None or not targets else cls(targets, num_top)


class SequenceSlice(NamedTuple):
    """Tokens `[start, start + len(token_ids))` of a sequence: at most one slice of it in a plan.

    `sequence_id` is never used again for another sequence as long as the engine lives.
    The one token of a decode step may be `PENDING`, if the plan before samples for the sequence.
    `block_table` lists the pool blocks of positions `[0, start + len(token_ids))`, in order; the KV
    of positions before `start` is in the pool already. Blocks before that of `start` may be other
    sequences' as well: they are read, and nothing else. `table_id` is another if the sequence has
    left its blocks, and is back in others; as long as it is the same, the table only grows: an
    engine may keep it. With `sample`, the engine answers with the token for position
    `start + len(token_ids)`; with `score`, which only tokens of prompts have, with what that says.
    """

    sequence_id: int
    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    sample: SampleSpec | None
    table_id: int = 0
    score: ScoreSpec | None = None

    @property
    def end(self) -> int:
        """One past the last position that the slice computes."""
        return self.start + len(self.token_ids)

    @property
    def num_logits(self) -> int:
        """How many of its last tokens have logits that somebody asks for: of the others nothing is
        computed behind the last layer's KV."""
        return len(self.token_ids) if self.score else int(self.sample is not None)


@dataclass(frozen=True, slots=True)
class StepRule:
    """How a worker fills its steps: with at most `prefill_token_budget` tokens of prompts, and,
    `mixed`, the running sequences' next tokens beside them. If not mixed, these wait as long as
    there are prompts to compute. While no sequence runs there may be `idle_token_budget` tokens of
    prompts, if that is more."""

    prefill_token_budget: int
    mixed: bool
    idle_token_budget: int = 0

    def budget(self, is_idle: bool) -> int:
        """Prompt tokens of a step at the most. `is_idle`: no sequence runs."""
        own = self.idle_token_budget if is_idle else 0
        return max(self.prefill_token_budget, own)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. `number` counts the steps of a worker since its start. Of the tokens,
    `num_prefill_tokens` are prompts'."""

    number: int
    slices: tuple[SequenceSlice, ...]
    num_prefill_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(len(each.token_ids) for each in self.slices)

    @property
    def has_scores(self) -> bool:
        """Whether any are asked for: not in a step of no prompts, which is not looked through."""
        return self.num_prefill_tokens > 0 and any(each.score for each in self.slices)


@dataclass(frozen=True, slots=True)
class StepResult:
    """`tokens[i]` is the token sampled for `plan.slices[i]`, None where none was asked for.
    `logprobs[i]` goes with it where the parameters ask for it; empty if nobody's do. `failures[i]`
    is why a token that was asked for could not be sampled (its grammar grew too complex, for one);
    empty if all could. The KV of such a slice is right all the same. `scores[i]` are those of its
    targets; empty if nobody asks for any."""

    tokens: tuple[int | None, ...]
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    failures: tuple[TandemError | None, ...] = ()
    scores: tuple[LogprobColumns | None, ...] = ()

    def logprobs_of(self, index: int) -> TokenLogprobs | None:
        return self.logprobs[index] if self.logprobs else None

    def failure_of(self, index: int) -> TandemError | None:
        return self.failures[index] if self.failures else None

    def scores_of(self, index: int) -> LogprobColumns | None:
        return self.scores[index] if self.scores else None
