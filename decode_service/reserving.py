"""How a sequence comes to be held: its blocks, its reservation, and what is said of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence as Tokens

from decode_service.held_sequence import HeldSequence
from tandem.core.blocks import BlockAllocator, SequenceBlocks
from tandem.core.commands import Reserve
from tandem.core.kv import KVLayout
from tandem.core.plan import SampleSpec
from tandem.core.prefix import PrefixChain
from tandem.core.reports import Reserved
from tandem.core.sequence import Sequence
from tandem.core.token_ids import joined
from tandem.transfer.reservation import Reservation

TRANSFER_ID_BYTES = 16


def prefix_of(command: Reserve, block_size: int) -> PrefixChain:
    """What names the blocks of the tokens that a sequence comes with."""
    return PrefixChain(_context_of(command), block_size, command.prefix_salt)


def hold(
    command: Reserve,
    prefix: PrefixChain,
    allocator: BlockAllocator,
    layout: KVLayout,
    epoch: int,
    num_to_spare: int,
) -> HeldSequence:
    """Set blocks aside, the leading ones shared if they are cached and the log-probabilities of the
    prompt are not asked for. `prefix` is that of the command. Raises `ResourceExhausted` if not
    `num_to_spare` others stay free."""
    sequence = Sequence(
        command.sequence_id,
        command.key,
        command.prompt_token_ids,
        command.params,
        list(command.generated_token_ids),
    )
    context = _context_of(command)
    prefix = prefix.grown(sequence)
    blocks = SequenceBlocks(allocator)
    num_blocks = layout.blocks_for(len(context) + command.headroom_tokens)
    # Not the last token: if it is computed here, the first generated comes of it.
    num_sharable = len(context) - 1 if command.params.prompt_logprobs is None else 0
    blocks.start(prefix, num_sharable, num_blocks, num_to_spare)
    num_cached_tokens = blocks.num_shared * layout.block_size
    transfer_id = secrets.token_bytes(TRANSFER_ID_BYTES)
    grant = Reserved(command.sequence_id, transfer_id, epoch, num_cached_tokens)
    reservation = Reservation(
        sequence_id=command.sequence_id,
        transfer_id=transfer_id,
        epoch=epoch,
        layout=layout,
        blocks=blocks,
        first_token=num_cached_tokens,
        num_tokens=len(context),
        num_logprobs=command.params.logprobs,
    )
    # It refers to the sequence's own lists, and so is good for every step.
    sample = SampleSpec(
        command.params, command.key.choice_index, command.prompt_token_ids, sequence.token_ids
    )
    return HeldSequence(
        sequence, context, blocks, reservation, grant, sample, prefix, command.preemption_rank
    )


def _context_of(command: Reserve) -> Tokens[int]:
    return joined(command.prompt_token_ids, command.generated_token_ids)
