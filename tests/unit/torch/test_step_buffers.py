"""Memory of a native step's activations."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tandem.artifacts.config import ModelConfig
from tandem.core.plan import SequenceSlice, StepPlan
from tandem.engine.torch import native_runner
from tandem.engine.torch.native_inputs import NativeInputBuilder, NativeInputs
from tandem.engine.torch.native_runner import StepBuffers
from tandem.native.library import best

CONFIG = ModelConfig.from_json(
    {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
    }
)


BLOCK_SIZE = 16


def inputs_of(num_rows: int) -> NativeInputs:
    """A step of one prompt."""
    table = tuple(range(-(-num_rows // BLOCK_SIZE)))
    plan = StepPlan(1, (SequenceSlice(0, (1,) * num_rows, 0, table, None),))
    return NativeInputBuilder(BLOCK_SIZE).build(plan)


def test_a_step_for_which_there_was_no_memory_leaves_none_that_is_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffers = StepBuffers(CONFIG, best(), 4)
    small, large = inputs_of(1), inputs_of(5000)
    buffers.step(small)
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(native_runner, "aligned_empty", _no_memory)
        buffers.step(large)
    step = buffers.step(large)
    # The last row can be written.
    last = step.hidden + (5000 - 1) * CONFIG.hidden_size * 4
    held = buffers._buffers["hidden"]
    assert held.ctypes.data <= last < held.ctypes.data + held.nbytes
    ctypes.memset(last, 0, CONFIG.hidden_size * 4)


def test_a_steps_logits_are_in_the_memory_of_the_step_before() -> None:
    buffers = StepBuffers(CONFIG, best(), 4)
    large = buffers.logits(7)
    small = buffers.logits(3)
    assert small.data_ptr() == large.data_ptr() == buffers.logits(7).data_ptr()
    larger = buffers.logits(15)
    # With room for some more: batches grow row by row.
    assert buffers.logits(16).data_ptr() == larger.data_ptr()
    assert (small.shape, larger.shape) == ((3, CONFIG.vocab_size), (15, CONFIG.vocab_size))
    assert larger.dtype == torch.float32 and larger.is_contiguous()


def _no_memory(num_bytes: int) -> None:
    raise MemoryError
