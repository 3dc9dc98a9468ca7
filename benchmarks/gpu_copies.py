"""A prompt's KV between a GPU's pool and messages, as the transfer threads of workers have it: jobs
of two parts, of which one always waits behind the running one. Out: regions of both planes, into
bytes that are new, checksums and all. In: frames, checked. `staged` ones go no further than pinned
memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from tandem.core.kv import Plane
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.transfer.codec import Frame, FrameHeader, decode_request, encode_frame
from tandem.transfer.copy_thread import CopyJob, TwoParts
from tandem.transfer.links import MAX_REGIONS_UNDER_WAY

# A layer, and the first token of the frames.
Region = tuple[int, int]
Way = Callable[[Region], Iterable[CopyJob[Any]]]


def run_ahead(way: Way, regions: Sequence[Region]) -> None:
    """As a `CopyThread` to which all jobs were given at once."""
    jobs = [TwoParts(job) for region in regions for job in way(region)]
    for job, behind in itertools.zip_longest(jobs, jobs[1:]):
        job.begin()
        if behind:
            behind.begin()
        job.end()


class KvCopies:
    """Of the tokens in the pool's first blocks."""

    def __init__(self, pool: TorchKVPool, num_tokens: int, frame_tokens: int) -> None:
        self.regions = [
            (layer, first)
            for layer in range(pool.layout.num_layers)
            for first in range(0, num_tokens, frame_tokens)
        ]
        self._pool = pool
        self._frame_tokens = frame_tokens

    def message_ways(self) -> tuple[Way, Way]:
        """Out, and in."""
        # As many regions as are under way to a destination; and all of them, to be stored.
        under_way: deque[list[bytes]] = deque(maxlen=MAX_REGIONS_UNDER_WAY)
        messages: dict[Region, list[bytes]] = {}
        for region in self.regions:
            run_ahead(lambda each: [self._read(each, under_way.append)], [region])
            messages[region] = under_way[-1]
        return (
            lambda region: [self._read(region, under_way.append)],
            lambda region: map(self._write, messages[region]),
        )

    def staged_ways(self) -> tuple[Way, Way]:
        """Out, and in."""
        return (
            lambda region: [self._copy(region, is_read=True)],
            lambda region: [self._copy(region, is_read=False)],
        )

    def _read(self, region: Region, keep: Callable[[list[bytes]], None]) -> CopyJob[None]:
        headers = [self._header(region, plane) for plane in Plane]
        with ExitStack() as begun:
            reads = [
                begun.enter_context(closing(self._pool.begin_read(*self._where(header))))
                for header in headers
            ]
            yield
            keep(
                [
                    encode_frame(header, self._pool.layout, read.end)
                    for header, read in zip(headers, reads, strict=True)
                ]
            )

    def _write(self, raw: bytes) -> CopyJob[None]:
        frame = decode_request(raw)
        assert isinstance(frame, Frame)
        items = frame.verified_items(self._pool.layout)
        with closing(self._pool.begin_write(*self._where(frame.header), items)) as write:
            yield
            write.end()

    def _copy(self, region: Region, *, is_read: bool) -> CopyJob[None]:
        copies: Any = self._pool.copies
        with ExitStack() as begun:
            for each in Plane:
                plane, layers, blocks, num_tokens = self._where(self._header(region, each))
                table = np.asarray(blocks, np.int64)
                copy = copies.begin_staged(plane - 1, layers, table, num_tokens, is_read=is_read)
                begun.enter_context(closing(copy))
            yield

    def _header(self, region: Region, plane: Plane) -> FrameHeader:
        layer, first = region
        layers = range(layer, layer + 1)
        return FrameHeader(b"benchmark", 1, 0, plane, layers, first, self._frame_tokens)

    def _where(self, header: FrameHeader) -> tuple[Plane, range, range, int]:
        block_size = self._pool.layout.block_size
        blocks = range(header.first_token // block_size, header.end // block_size)
        return header.plane, header.layers, blocks, header.num_tokens
