"""What of a sequence's KV is sent at once: some layers of some tokens. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tandem.core.kv import KVLayout

# Below the first a frame's fixed cost shows; above the second nothing is gained. A frame is at the
# least a block of all layers that are grouped: while no more than the second is asked for, that
# exceeds it by a block of one layer at most, and gRPC takes eight times as much.
MIN_FRAME_BYTES = 2**20
MAX_FRAME_BYTES = 2 * 2**20


@dataclass(frozen=True, slots=True)
class Region:
    """Layers of tokens `[first_token, end)`, whose KV is final. It becomes one frame a plane."""

    layers: range
    first_token: int
    end: int


class LayerGrouper:
    """Groups a chunk's layers until a frame is worth sending, and cuts what is too large. A chunk
    begins where the one before ended; the first, with the token that the receiver lacks first:
    what the sender had cached of that goes with it."""

    def __init__(
        self,
        layout: KVLayout,
        first_token: int,
        min_frame_bytes: int = MIN_FRAME_BYTES,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        self._layout = layout
        self._min_frame_bytes = min_frame_bytes
        self._max_frame_bytes = max_frame_bytes
        self._first_token = first_token
        self._first_layer = 0

    def layer_done(self, layer: int, end: int) -> Iterator[Region]:
        """Layer `layer` of a chunk that ends before token `end` is computed; the regions that are
        due now."""
        start = self._first_token
        if start >= end:
            return
        layers = range(self._first_layer, layer + 1)
        is_last = layer + 1 == self._layout.num_layers
        num_bytes = len(layers) * (end - start) * self._layout.token_bytes
        if is_last or num_bytes >= self._min_frame_bytes:
            self._first_layer = 0 if is_last else layer + 1
            self._first_token = end if is_last else start
            yield from self._cut(layers, start, end)

    def _cut(self, layers: range, start: int, end: int) -> Iterator[Region]:
        token_bytes = len(layers) * self._layout.token_bytes
        block_size = self._layout.block_size
        step = max(1, self._max_frame_bytes // token_bytes // block_size) * block_size
        for first in range(start, end, step):
            yield Region(layers, first, min(first + step, end))
