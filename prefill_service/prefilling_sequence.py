"""A sequence on a prefill worker."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from tandem.core.blocks import SequenceBlocks
from tandem.core.commands import PrefillChunk, PrefillSequence
from tandem.core.plan import SampleSpec
from tandem.core.prefix import PrefixChain
from tandem.core.prompt_progress import PromptProgress
from tandem.core.reports import PrefillReport
from tandem.core.token_ids import joined, token_array


@dataclass(slots=True)
class PrefillingSequence:
    """A sequence's record. `token_ids` are those to compute, chunk by chunk, and `prefix` names
    their blocks; of those that are there, as `progress` says, `num_cached_tokens` were found.
    `reports` is what was said of it so far."""

    sequence_id: int
    spec: PrefillSequence
    blocks: SequenceBlocks
    block_size: int
    prefix: PrefixChain = field(init=False)
    token_ids: array[int] = field(default_factory=token_array)
    num_cached_tokens: int = 0
    progress: PromptProgress = field(default_factory=PromptProgress)
    reports: list[PrefillReport] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.prefix = PrefixChain(self.token_ids, self.block_size, self.spec.prefix_salt)

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
