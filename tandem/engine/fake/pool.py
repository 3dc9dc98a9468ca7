"""The paged cache of a fake device: real bytes in host memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import TandemError
from tandem.core.kv import KVLayout, Plane
from tandem.engine.fake.content import Words, as_words, fake_layout
from tandem.engine.fake.link import VirtualLink
from tandem.engine.fake.paging import Index, Span, locate
from tandem.engine.kv_copy import LateRead, Stored
from tandem.engine.protocols import KVPool, KVRead, KVWrite


class FakeKVPool(KVPool):
    """A `KVPool` over one array, `[2 planes, layers, num_blocks, block_size, heads, head_dim]`.

    Nothing ever clears a block: a freed one keeps its contents, so that whoever reads it without
    having filled it gets stale bytes, as on a real device, and a wrong output shows it.
    `array` is public for the tests that corrupt it.
    """

    def __init__(
        self, block_size: int, num_blocks: int, *, link: VirtualLink, token_layer_s: float
    ) -> None:
        """`token_layer_s`: seconds on `link` of one token in one plane of one layer."""
        self._layout = fake_layout(block_size)
        self._num_blocks = num_blocks
        self._link = link
        self._token_layer_s = token_layer_s
        planes, layers = len(Plane), self._layout.num_layers
        item = (self._layout.num_kv_heads, self._layout.head_dim)
        self.array = np.zeros((planes, layers, num_blocks, block_size, *item), np.uint16)
        # Two more views of the same memory, with blocks and offsets joined into one axis of slots.
        self._tokens = self.array.reshape(planes, layers, -1, *item)
        self._words = as_words(self.array)
        self._written = np.zeros(num_blocks * block_size, np.bool_)

    @property
    def layout(self) -> KVLayout:
        return self._layout

    @property
    def num_blocks(self) -> int:
        return self._num_blocks

    def begin_read(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int
    ) -> KVRead:
        return LateRead(lambda out: self.read_into(plane, layers, blocks, num_tokens, out))

    def begin_write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> KVWrite:
        self.write(plane, layers, blocks, num_tokens, data)
        return Stored()

    def read_into(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, out: memoryview
    ) -> None:
        """Copy the items, once the virtual link has carried them. Raises ValueError if `out` has
        not exactly the bytes of the region."""
        slots = self._slots(blocks, num_tokens)
        region = self._region(plane, layers)
        shape = (len(layers), num_tokens, *region.shape[2:])
        np.frombuffer(out, np.uint16).reshape(shape)[:] = region[:, slots]
        self._link.carry(num_tokens * len(layers) * self._token_layer_s)

    def write(
        self, plane: Plane, layers: range, blocks: Sequence[int], num_tokens: int, data: memoryview
    ) -> None:
        """Store the items. Raises ValueError if `data` has not exactly the bytes of the region."""
        slots = self._slots(blocks, num_tokens)
        region = self._region(plane, layers)
        shape = (len(layers), num_tokens, *region.shape[2:])
        region[:, slots] = np.frombuffer(data, np.uint16).reshape(shape)
        self._written[slots] = True

    def scatter(self, layer: int, slots: Index, kv: NDArray[np.uint16]) -> None:
        """Store what a step computed for `layer`, `[planes, len(slots), heads, head_dim]`, in slots
        that `check_slots` has passed."""
        self._tokens[:, layer][:, slots] = kv
        self._written[slots] = True

    def gather(self, slots: Index) -> Words:
        """What the engine reads, `[planes * layers, len(slots), WORDS]`, from slots that
        `check_written` has passed."""
        return self._words.take(slots, axis=1)

    def check_written(self, slots: Index) -> None:
        """Raise `TandemError` if one of `slots` is outside the pool or was never written."""
        self.check_slots(slots)
        written = self._written[slots]
        if not written.all():
            block, offset = divmod(int(slots[written.argmin()]), self._layout.block_size)
            raise TandemError(f"token {offset} of block {block} is read, but was never written")

    def check_slots(self, slots: Index) -> None:
        """Raise `TandemError` if one of `slots` is outside the pool."""
        # As unsigned numbers the negative ones are too large as well.
        outside = slots.view(np.uint64) >= self._written.size
        if outside.any():
            block = int(slots[outside.argmax()]) // self._layout.block_size
            raise TandemError(f"block {block} is not in a pool of {self._num_blocks} blocks")

    def _slots(self, blocks: Sequence[int], num_tokens: int) -> Index:
        if not 0 < num_tokens <= len(blocks) * self._layout.block_size:
            raise TandemError(f"{len(blocks)} blocks do not hold {num_tokens} tokens")
        slots = locate([Span(0, num_tokens, blocks)], self._layout.block_size).slots
        self.check_slots(slots)
        return slots

    def _region(self, plane: Plane, layers: range) -> NDArray[np.uint16]:
        """`[len(layers), slots, heads, head_dim]`, a view."""
        if layers.step != 1 or not 0 <= layers.start <= layers.stop <= self._layout.num_layers:
            raise TandemError(f"{layers} is no range of the {self._layout.num_layers} layers")
        return self._tokens[plane - Plane.KEY, layers.start : layers.stop]
