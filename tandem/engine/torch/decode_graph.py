"""Steps of single tokens, recorded once for each size of batch and replayed.

A graph's kernels read their inputs at fixed addresses, so each size has buffers of its own; a batch
goes into the smallest that holds it, and the rows that are left over compute a token nobody wants,
in a block nobody has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog
import torch
from torch import Tensor
from triton import TritonError

from tandem.core.plan import PENDING, StepPlan
from tandem.engine.torch.batch_sizes import BATCH_SIZES
from tandem.engine.torch.block_tables import BlockTables
from tandem.engine.torch.device_health import is_lost
from tandem.engine.torch.fastest_graph import fastest, replay_seconds
from tandem.engine.torch.gpu_decoder import GpuRows
from tandem.engine.torch.graph_trial import Trial
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.triton_attention import QueryTiles

# Runs before the recording: Triton compiles, libraries choose and allocate.
NUM_WARM_UPS = 2
# What is known of a row, each a column of its own.
TOKEN, POSITION, SLOT, LENGTH = range(4)
NUM_COLUMNS = 4
NO_ROWS: Mapping[int, int] = {}

log = structlog.get_logger(__name__)

Decode = Callable[[GpuRows, Tensor], object]
"""Puts the rows' logits into the tensor [rows, vocab_size]."""


@dataclass(frozen=True, slots=True)
class Way:
    """One to compute steps of `more_than` and at most `max_rows` single tokens."""

    name: str
    decode: Decode
    more_than: int = 0
    max_rows: int = BATCH_SIZES[-1]


class DecodeGraphs:
    """The graphs of one model and pool. On a CPU, where there are none, the first way is run."""

    def __init__(
        self,
        ways: Sequence[Way],
        pool: TorchKVPool,
        device: torch.device,
        max_model_len: int,
        vocab_size: int,
        dtype: torch.dtype,
    ) -> None:
        """Records all sizes, from the largest down: the smaller ones use the same memory. One that
        cannot be had, as where memory is short, is left out. In a pool where no block is anybody's.
        Raises `ConfigError` as `fastest` does."""
        recorder = Recorder() if device.type == "cuda" else None
        # One replay's at a time.
        logits = torch.empty(BATCH_SIZES[-1], vocab_size, dtype=dtype, device=device)

        def graph(size: int, way: Way) -> DecodeGraph:
            return DecodeGraph(way, pool, device, max_model_len, logits[:size], recorder)

        is_lost_now = partial(is_lost, device)
        self._graphs: dict[int, DecodeGraph] = {}
        for size in reversed(BATCH_SIZES):
            fitting = [way for way in ways if way.more_than < size <= way.max_rows]
            trial = Trial(pool, size, max_model_len)
            if recorder is None or not trial.fits:
                fitting = fitting[:1]
            record = partial(graph, size)
            try:
                self._graphs[size] = fastest(trial, fitting, record, replay_seconds, is_lost_now)
            except (TritonError, RuntimeError) as error:
                if is_lost_now():
                    raise
                log.warning("steps without a graph", rows=size, reason=str(error))

    def can_replay(self, plan: StepPlan) -> bool:
        """Whether the step is one token of each sequence, each to be sampled from, and of no more
        than a graph was recorded for."""
        return len(plan.slices) <= max(self._graphs, default=0) and all(
            len(each.token_ids) == 1 and each.sample is not None for each in plan.slices
        )

    def replay(self, plan: StepPlan, last_rows: Mapping[int, int] = NO_ROWS) -> Tensor:
        """The step's logits [slices, vocab_size], valid until the next replay. `last_rows`: in
        which row of the step before each sequence's token is that may be `PENDING`."""
        return self.of(plan).replay(plan, last_rows)

    def of(self, plan: StepPlan) -> DecodeGraph:
        """The smallest that holds the step."""
        return self._graphs[min(size for size in self._graphs if size >= len(plan.slices))]


class HostRows:
    """A batch's inputs in host memory, kept from step to step: only what has changed is written.

    `items` is flat, int32: the columns, and then all rows' first blocks, all rows' second ones, and
    so on, so that the blocks that a step has are all at the front.
    """

    def __init__(self, size: int, pool: TorchKVPool, max_model_len: int, pinned: bool) -> None:
        self._block_size = pool.layout.block_size
        width = pool.layout.blocks_for(max_model_len)
        self.items = torch.zeros(size * (NUM_COLUMNS + width), dtype=torch.int32, pin_memory=pinned)
        self._columns = self.items.numpy()[: NUM_COLUMNS * size].reshape(NUM_COLUMNS, size)
        tables = self.items.numpy()[NUM_COLUMNS * size :].reshape(width, size)
        self._tables = BlockTables(tables.T)
        self._spare_slot = pool.spare_block * self._block_size
        self._columns[SLOT] = self._spare_slot
        self._num_used = 0

    def fill(self, plan: StepPlan, last_rows: Mapping[int, int] = NO_ROWS) -> int:
        """Write the step's rows, `PENDING` tokens as `triton_layers.embed` takes them. So many
        items, from the first, are all that it has."""
        slices, block_size = plan.slices, self._block_size
        count = len(slices)
        self._tables.write(slices)
        starts = np.array([each.start for each in slices])
        columns = self._columns
        columns[TOKEN, :count] = [
            -1 - last_rows[each.sequence_id] if each.token_ids[0] == PENDING else each.token_ids[0]
            for each in slices
        ]
        columns[POSITION, :count] = starts
        blocks = self._tables.rows[np.arange(count), starts // block_size]
        columns[SLOT, :count] = blocks * block_size + starts % block_size
        columns[LENGTH, :count] = 1
        self._clear(count, self._num_used)
        self._num_used = count
        num_blocks = int(starts.max()) // block_size + 1
        return self._columns.size + num_blocks * self._columns.shape[1]

    def _clear(self, start: int, end: int) -> None:
        """Rows that are used no more."""
        if start < end:
            self._columns[:, start:end] = 0
            self._columns[SLOT, start:end] = self._spare_slot


class DecodeGraph:
    """The step of one size of batch: that of `logits` [rows, vocab_size], which it fills."""

    def __init__(
        self,
        way: Way,
        pool: TorchKVPool,
        device: torch.device,
        max_model_len: int,
        logits: Tensor,
        recorder: Recorder | None,
    ) -> None:
        self.way = way
        self._logits = logits
        size = len(logits)
        on_gpu = device.type == "cuda"
        # Two, in turn: while one step's is being copied, the next step's is written.
        self._host = [HostRows(size, pool, max_model_len, on_gpu) for _ in range(2)]
        self._inputs = self._host[0].items.to(device, copy=True)
        self._rows = _rows(self._inputs, size)
        self._graph = recorder.record(self._run) if recorder else None

    def replay(self, plan: StepPlan, last_rows: Mapping[int, int] = NO_ROWS) -> Tensor:
        """Requires that of the steps launched before all but the last have been waited for."""
        self._host.reverse()
        num_items = self._host[0].fill(plan, last_rows)
        self._inputs[:num_items].copy_(self._host[0].items[:num_items], non_blocking=True)
        self.replay_again()
        return self._logits[: len(plan.slices)]

    def replay_again(self) -> None:
        """The step before once more."""
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()

    def _run(self) -> None:
        self.way.decode(self._rows, self._logits)


class Recorder:
    """Makes graphs that use the same memory, and so are never replayed at the same time."""

    def __init__(self) -> None:
        self._memory = torch.cuda.graph_pool_handle()
        # One for all warm-ups: libraries keep memory for each stream that they have seen.
        self._beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def record(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """The graph of what `run` launches."""
        self._beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._beside):
            for _ in range(NUM_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(self._beside)
        graph = torch.cuda.CUDAGraph()
        # The stream is torch's to put back, which it does not where a recording fails; and what a
        # failed one has taken of the memory is unknown.
        with torch.cuda.stream(torch.cuda.current_stream()):
            try:
                with torch.cuda.graph(graph, pool=self._memory):
                    run()
            except RuntimeError:
                self._memory = torch.cuda.graph_pool_handle()
                raise
        return graph


def _rows(inputs: Tensor, size: int) -> GpuRows:
    """What `HostRows` wrote, as the kernels take it."""
    columns = inputs[: NUM_COLUMNS * size].view(NUM_COLUMNS, size)
    tiles = QueryTiles(
        rows=torch.arange(size, dtype=torch.int32, device=inputs.device),
        lengths=columns[LENGTH],
        positions=columns[POSITION],
        tables=inputs[NUM_COLUMNS * size :].view(-1, size).T,
        num_queries=1,
    )
    return GpuRows(columns[TOKEN], columns[POSITION], columns[SLOT], [tiles])
