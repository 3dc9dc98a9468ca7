"""A decoder's step by the native kernels, on a CPU."""

from __future__ import annotations

from ctypes import byref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.artifacts.config import ModelConfig
from tandem.core.plan import StepPlan
from tandem.engine.protocols import LayerHook
from tandem.engine.torch.flat_rows import FlatRows
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.native_inputs import NativeInputBuilder, NativeInputs, room_for
from tandem.engine.torch.packed_model import PackedModel
from tandem.engine.torch.packed_weights import aligned_empty
from tandem.engine.torch.threads import team
from tandem.native import structs
from tandem.native.library import Kernels

FLOAT32_BYTES = 4


class NativeRunner:
    """A `Runner`. A layer is three calls: keys and values, attention, the rest. The attributes are
    for benchmarks, which make these calls one by one."""

    def __init__(
        self,
        config: ModelConfig,
        kernels: Kernels,
        model: PackedModel,
        pool: TorchKVPool,
        *,
        is_bfloat16: bool,
    ) -> None:
        self._config = config
        self._functions = kernels.functions
        self.model = model
        self.inputs = NativeInputBuilder(pool.layout.block_size)
        self.is_bfloat16 = is_bfloat16
        self.buffers = StepBuffers(config, kernels, 2 if is_bfloat16 else FLOAT32_BYTES)
        self._block_size = pool.layout.block_size
        self._pool = pool
        # The last step, whose activations stay where they are, and what it refers to.
        self._computed: tuple[structs.Step, NativeInputs] | None = None

    def logits(self, plan: StepPlan, on_layer: LayerHook | None) -> Tensor:
        inputs = self.inputs.build(plan)
        self._pool.used(int(inputs.slots.max()) // self._block_size)
        step = self.buffers.step(inputs)
        call, model = self._functions, byref(self.model.struct)
        kind, step_at = self.is_bfloat16, byref(step)
        token_ids = inputs.flat.token_ids.ctypes.data
        call.tandem_embed(kind, model, byref(self.model.embedding), step_at, token_ids)
        last = self._config.num_layers - 1
        for layer in range(self._config.num_layers):
            call.tandem_before_attention(kind, model, step_at, layer)
            if on_layer is not None:
                on_layer(layer)
            if layer == last:
                step = self.buffers.asked(step, inputs.flat)
                step_at = byref(step)
                if not step.num_rows:
                    break
            call.tandem_attention(kind, model, step_at, layer)
            call.tandem_after_attention(kind, model, step_at, layer)
        self._computed = step, inputs
        return self.logits_of(inputs.flat.logit_rows)

    def logits_of(self, rows: NDArray[np.int64]) -> Tensor:
        assert self._computed is not None, "no step was computed"
        model, step = byref(self.model.struct), byref(self._computed[0])
        logits = self.buffers.logits(len(rows))
        self._functions.tandem_logits(
            self.is_bfloat16, model, step, rows.ctypes.data, len(rows), logits.data_ptr()
        )
        return logits


class StepBuffers:
    """A step's activations and logits, as long as the longest so far; and its `structs.Step`. Kept,
    because so much fresh memory would be fresh pages for every step."""

    def __init__(self, config: ModelConfig, kernels: Kernels, item_bytes: int) -> None:
        padded = kernels.padded
        queries = config.num_heads * config.head_dim
        qkv = queries + 2 * config.num_kv_heads * config.head_dim
        # Bytes of a row.
        self._widths = {
            "hidden": padded(config.hidden_size) * FLOAT32_BYTES,
            "normed": padded(config.hidden_size) * item_bytes,
            "qkv": padded(qkv) * FLOAT32_BYTES,
            "queries": padded(queries) * item_bytes,
            "attended": padded(queries) * item_bytes,
            "inner": padded(config.intermediate_size) * item_bytes,
        }
        self._num_rows = 0
        self._buffers: dict[str, NDArray[np.uint8]] = {}
        self._logits = torch.empty(0, config.vocab_size)

    def logits(self, num_rows: int) -> Tensor:
        """Float32 [num_rows, vocab_size], not written yet. Valid until the next call."""
        room = room_for(num_rows, len(self._logits))
        if room > len(self._logits):
            vocab_size = self._logits.shape[1]
            memory = aligned_empty(room * vocab_size * FLOAT32_BYTES)
            self._logits = torch.from_numpy(memory.view(np.float32)).view(-1, vocab_size)
        return self._logits[:num_rows]

    def step(self, inputs: NativeInputs) -> structs.Step:
        """Valid as long as `inputs`, until the next call."""
        flat = inputs.flat
        num_rows = len(flat.positions)
        room = room_for(num_rows, self._num_rows)
        if room > self._num_rows:
            self._buffers = {
                name: aligned_empty(room * width) for name, width in self._widths.items()
            }
            self._num_rows = room  # not before there is memory for them
        return structs.Step(
            team=team(),
            num_rows=num_rows,
            num_sequences=len(flat.spans.starts),
            rows=flat.spans.rows.ctypes.data,
            starts=flat.spans.starts.ctypes.data,
            tables=inputs.tables.ctypes.data,
            table_width=inputs.tables.shape[1],
            positions=flat.positions.ctypes.data,
            slots=inputs.slots.ctypes.data,
            **{name: buffer.ctypes.data for name, buffer in self._buffers.items()},
        )

    def asked(self, step: structs.Step, flat: FlatRows) -> structs.Step:
        """What the last layer goes on with once it has the KV of a `step` of `flat`: its rows that
        somebody asks for, alone. They move to the front of the buffers; valid as long as `step`."""
        if flat.asked is None:
            return step
        count = len(flat.asked)
        for name in ("hidden", "queries"):
            rows = self._buffers[name].reshape(self._num_rows, -1)
            rows[:count] = rows[flat.asked]
        asked = structs.Step.from_buffer_copy(step)
        asked.num_rows = count
        asked.rows = flat.asked_spans.rows.ctypes.data
        asked.starts = flat.asked_spans.starts.ctypes.data
        asked.positions = asked.slots = None  # of all rows, for whoever stores KV
        return asked
