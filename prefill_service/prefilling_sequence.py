"""A sequence on a prefill worker."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace

from tandem.core.blocks import SequenceBlocks
from tandem.core.commands import PrefillChunk, PrefillSequence
from tandem.core.logprobs import LogprobColumns
from tandem.core.plan import SampleSpec
from tandem.core.prefix import PrefixChain
from tandem.core.prompt_progress import PromptProgress
from tandem.core.reports import FirstToken, PrefillReport
from tandem.core.token_ids import joined, token_array


@dataclass(slots=True)
class PrefillingSequence:
    """A sequence's record. `token_ids` are those to compute, chunk by chunk, and `prefix` names
    their blocks; of those that are there, as `progress` says, `num_cached_tokens` were found.
    `scores` are its prompt's log-probabilities, if they are asked for: as far as it is computed,
    and then as long as the controller may not have them. `reports` is what was said of it so
    far."""

    sequence_id: int
    spec: PrefillSequence
    blocks: SequenceBlocks
    block_size: int
    prefix: PrefixChain = field(init=False)
    token_ids: array[int] = field(default_factory=token_array)
    num_cached_tokens: int = 0
    progress: PromptProgress = field(default_factory=PromptProgress)
    reports: list[PrefillReport] = field(default_factory=list)
    scores: LogprobColumns | None = None
    ended: bool = False

    def __post_init__(self) -> None:
        if self.is_scored:
            self.scores = LogprobColumns()
        self.prefix = PrefixChain(self.token_ids, self.block_size, self.spec.prefix_salt)

    @property
    def is_scored(self) -> bool:
        """Whether its prompt's log-probabilities are asked for."""
        return self.spec.params.prompt_logprobs is not None

    @property
    def num_told_logprobs(self) -> int:
        """Those of its scores that its reports have, of the likeliest tokens as well."""
        return sum(
            each.prompt_logprobs.num_in_all
            for each in self.reports
            if isinstance(each, FirstToken) and each.prompt_logprobs
        )

    def scores_are_known(self) -> None:
        """The controller has them: they need not be said again."""
        self.scores = None
        self.reports = [
            replace(each, prompt_logprobs=None) if isinstance(each, FirstToken) else each
            for each in self.reports
        ]

    def sample_spec(self) -> SampleSpec:
        """How to sample the token behind the last chunk."""
        num_prompt_tokens = self.spec.num_prompt_tokens
        return SampleSpec(
            self.spec.params,
            self.spec.key.choice_index,
            prompt_token_ids=self.token_ids[:num_prompt_tokens],
            token_ids=self.token_ids[num_prompt_tokens:],
        )


def prefix_up_to(
    chunk: PrefillChunk, sequence: PrefillingSequence | None, block_size: int
) -> PrefixChain | None:
    """What names the blocks of a sequence, if it is here already, with a chunk that is yet to be
    added; None if what lies before the chunk is not here."""
    known = sequence.token_ids if sequence else token_array()
    if chunk.start != len(known):
        return None
    if sequence:
        prefix = sequence.prefix
    elif chunk.sequence:
        prefix = PrefixChain(known, block_size, chunk.sequence.prefix_salt)
    else:
        return None
    return prefix.grown(joined(known, chunk.token_ids))
