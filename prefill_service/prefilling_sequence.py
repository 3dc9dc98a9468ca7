"""A sequence on a prefill worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.core.blocks import SequenceBlocks
from tandem.core.commands import PrefillSequence
from tandem.core.prefix import PrefixChain
from tandem.core.reports import PrefillReport


@dataclass(slots=True)
class PrefillingSequence:
    """A sequence's record. `token_ids` are its prompt's, chunk by chunk, and `prefix` names their
    blocks; the KV of `num_computed` tokens is there, of which `num_cached_tokens` were found.
    `reports` is what was said of it so far."""

    sequence_id: int
    spec: PrefillSequence
    blocks: SequenceBlocks
    block_size: int
    prefix: PrefixChain = field(init=False)
    token_ids: list[int] = field(default_factory=list)
    num_cached_tokens: int = 0
    num_computed: int = 0
    reports: list[PrefillReport] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.prefix = PrefixChain(self.token_ids, self.block_size, self.spec.prefix_salt)
