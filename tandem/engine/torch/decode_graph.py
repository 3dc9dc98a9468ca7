"""Steps of single tokens, recorded once for each size of batch and replayed.

A graph's kernels read their inputs at fixed addresses, so each size has buffers of its own; a batch
goes into the smallest that holds it, and the rows that are left over compute a token nobody wants,
in a block nobody has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tandem.core.plan import StepPlan
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.triton_attention import QueryTiles

BATCH_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Runs before the recording: Triton compiles, libraries choose and allocate.
NUM_WARM_UPS = 2
# Columns of a row's inputs before its block table.
TOKEN, POSITION, LENGTH, TABLE = range(4)

# token_ids, positions, slots, tiles -> logits, with a row for each.
Decode = Callable[[Tensor, Tensor, Tensor, QueryTiles], Tensor]


class DecodeGraphs:
    """The graphs of one model and pool. On a CPU, where there are none, `decode` itself runs."""

    def __init__(
        self, decode: Decode, pool: TorchKVPool, device: torch.device, max_model_len: int
    ) -> None:
        """Records all sizes, from the largest down: the smaller ones use the same memory."""
        memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._graphs = {
            size: DecodeGraph(decode, pool, device, max_model_len, size, memory)
            for size in reversed(BATCH_SIZES)
        }

    def can_replay(self, plan: StepPlan) -> bool:
        """Whether the step is one token of each sequence, each to be sampled from."""
        return len(plan.slices) <= BATCH_SIZES[-1] and all(
            len(each.token_ids) == 1 and each.sample is not None for each in plan.slices
        )

    def replay(self, plan: StepPlan) -> Tensor:
        """The step's logits [slices, vocab_size], valid until the next replay."""
        size = next(each for each in BATCH_SIZES if each >= len(plan.slices))
        return self._graphs[size].replay(plan)


class DecodeGraph:
    """The step of one size of batch."""

    def __init__(
        self,
        decode: Decode,
        pool: TorchKVPool,
        device: torch.device,
        max_model_len: int,
        size: int,
        memory: Any,
    ) -> None:
        self._decode = decode
        self._block_size = pool.layout.block_size
        self._max_keys = max_model_len
        on_gpu = device.type == "cuda"
        width = TABLE + pool.layout.blocks_for(max_model_len)
        self._host = torch.zeros(size, width, dtype=torch.int32, pin_memory=on_gpu)
        self._spare = pool.spare_block
        self._host[:, TABLE] = self._spare
        self._rows = self._host.numpy()
        self._inputs = self._host.to(device)
        # What each row's table holds: the sequence, and how many of its blocks.
        self._held: list[tuple[int, int] | None] = [None] * size
        self._num_used = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
        if on_gpu:
            self._record(memory)

    def replay(self, plan: StepPlan) -> Tensor:
        self._fill(plan)
        # The buffer is written again only after this step's tokens were waited for.
        self._inputs.copy_(self._host, non_blocking=True)
        if self._graph is None or self._logits is None:
            return self._run()[: len(plan.slices)]
        self._graph.replay()
        return self._logits[: len(plan.slices)]

    def _fill(self, plan: StepPlan) -> None:
        """Write what has changed since the last step: of a sequence that goes on in its row, its
        token and position, and its table when it has grown."""
        rows, block_size = self._rows, self._block_size
        for index, each in enumerate(plan.slices):
            row = rows[index]
            num_blocks = -(-each.end // block_size)
            if self._held[index] != (each.sequence_id, num_blocks):
                self._held[index] = (each.sequence_id, num_blocks)
                row[TABLE : TABLE + num_blocks] = each.block_table[:num_blocks]
            row[TOKEN], row[POSITION] = each.token_ids[0], each.start
        count = len(plan.slices)
        rows[:count, LENGTH] = 1
        for index in range(count, self._num_used):
            rows[index, : TABLE + 1] = 0
            rows[index, TABLE] = self._spare
            self._held[index] = None
        self._num_used = count

    def _run(self) -> Tensor:
        inputs = self._inputs
        positions = inputs[:, POSITION].long()
        tables = inputs[:, TABLE:]
        blocks = tables.gather(1, (positions // self._block_size).unsqueeze(1)).squeeze(1).long()
        slots = blocks * self._block_size + positions % self._block_size
        tiles = QueryTiles(
            rows=torch.arange(len(inputs), dtype=torch.int32, device=inputs.device),
            lengths=inputs[:, LENGTH].contiguous(),
            positions=inputs[:, POSITION].contiguous(),
            tables=tables,
            num_queries=1,
            max_keys=self._max_keys,
        )
        return self._decode(inputs[:, TOKEN].long(), positions, slots, tiles)

    @torch.inference_mode()
    def _record(self, memory: Any) -> None:
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(NUM_WARM_UPS):
                self._run()
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=memory):
            self._logits = self._run()
