"""A reservation on a decode worker: blocks that wait for KV, and which of it has come."""

from __future__ import annotations

import numpy as np

from tandem.core.blocks import SequenceBlocks
from tandem.core.errors import DataLoss, Fenced
from tandem.core.kv import KVLayout, Plane
from tandem.core.logprobs import TokenLogprobs
from tandem.transfer.codec import FrameHeader


class Released(Fenced):
    """The reservation's sequence has ended here: its controller wanted that, or was told of it, and
    tells the sender. To that it is `Fenced`."""


class Reservation:
    """Tokens `[first_token, num_tokens)` of a sequence are to be filled, all layers, both planes.

    `transfer_id` is the capability to fill them, `epoch` tells this reservation from every other of
    the worker. With the first token come its log-probabilities and those of the `num_logprobs`
    likeliest, unless that is None. Coverage is counted by (plane, layer, block), so streams may
    fill it in any order, and overlap. Who holds the object still cannot write what is closed,
    complete or released: streams may outlive all three.
    """

    def __init__(
        self,
        *,
        sequence_id: int,
        transfer_id: bytes,
        epoch: int,
        layout: KVLayout,
        blocks: SequenceBlocks,
        first_token: int,
        num_tokens: int,
        num_logprobs: int | None = None,
    ) -> None:
        self.sequence_id = sequence_id
        self.transfer_id = transfer_id
        self.epoch = epoch
        self.blocks = blocks
        self.first_token = first_token
        self.num_tokens = num_tokens
        self.num_logprobs = num_logprobs
        self.first_token_id: int | None = None
        self.first_token_logprobs: TokenLogprobs | None = None
        self._layout = layout
        self._covered = np.zeros(
            (len(Plane), layout.num_layers, layout.blocks_for(num_tokens)), dtype=np.bool_
        )
        self._covered[:, :, : first_token // layout.block_size] = True
        self.num_missing = int(self._covered.size - self._covered.sum())
        self._closed = False
        self._num_writes = 0

    @property
    def is_complete(self) -> bool:
        """All KV is stored, and the token that follows the prompt is known."""
        return self.num_missing == 0 and self.first_token_id is not None

    @property
    def is_quiet(self) -> bool:
        """Whether no frame is being stored at present."""
        return self._num_writes == 0

    def close(self) -> None:
        """Take no more frames, and no finish: the blocks are somebody else's to write once it is
        quiet."""
        self._closed = True

    def begin_write(self) -> None:
        """Start to store a frame. Raises `Fenced` if nothing may be written any more."""
        self.check_open()
        if self.is_complete:
            # Its sequence may run by now: what it reads must not change.
            raise Fenced("the reservation is complete")
        self.blocks.begin_access()
        self._num_writes += 1

    def end_write(self) -> None:
        """End what `begin_write` started."""
        self._num_writes -= 1
        self.blocks.end_access()

    def finish(self, first_token_id: int, logprobs: TokenLogprobs | None) -> None:
        """Note the token that follows the prompt, of an open reservation. Raises `DataLoss` if
        another one was named before."""
        if self.first_token_id is None:
            self.first_token_id, self.first_token_logprobs = first_token_id, logprobs
        elif self.first_token_id != first_token_id:
            raise DataLoss(f"the first token was {self.first_token_id} and then {first_token_id}")

    def check_open(self) -> None:
        """Raise `Fenced` if nobody waits for its KV any more."""
        if self.blocks.released:
            raise Released("the reservation was released")
        if self._closed:
            raise Fenced("the reservation is closed: its prompt is computed here")

    def check_covered(self) -> None:
        """Raise `DataLoss` unless all KV is stored, and none of it anew at present: another stream
        of the same identity may be open."""
        if self.num_missing:
            raise DataLoss(f"{self.num_missing} of {self._covered.size} parts have not come")
        if not self.is_quiet:
            raise DataLoss("another stream stores the same KV")

    def check(self, header: FrameHeader) -> None:
        """Raise `DataLoss` unless the frame is of this reservation, and of whole blocks of it."""
        if (header.transfer_id, header.epoch) != (self.transfer_id, self.epoch):
            raise DataLoss(f"frame {header.number} is of another transfer")
        layers, block_size = header.layers, self._layout.block_size
        in_range = (
            0 <= layers.start < layers.stop <= self._layout.num_layers
            and self.first_token <= header.first_token < header.end <= self.num_tokens
        )
        whole_blocks = header.first_token % block_size == 0 and (
            header.end % block_size == 0 or header.end == self.num_tokens
        )
        if not (in_range and whole_blocks):
            raise DataLoss(f"frame {header.number} lies outside of its transfer")

    def block_ids(self, header: FrameHeader) -> list[int]:
        """The pool blocks of a checked frame's tokens."""
        return self.blocks.ids[self._block_range(header)]

    def cover(self, header: FrameHeader) -> None:
        """Note that a checked frame is stored. A repeated one changes nothing."""
        region = self._covered[
            header.plane - 1, header.layers.start : header.layers.stop, self._block_range(header)
        ]
        self.num_missing -= int(region.size - region.sum())
        region[:] = True

    def _block_range(self, header: FrameHeader) -> slice:
        block_size = self._layout.block_size
        return slice(header.first_token // block_size, self._layout.blocks_for(header.end))
