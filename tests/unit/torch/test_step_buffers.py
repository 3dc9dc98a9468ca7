"""Memory of a native step's activations."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from tandem.artifacts.config import ModelConfig
from tandem.engine.torch import native_runner
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


class Inputs:
    """As many rows as a test wants."""

    def __init__(self, num_rows: int) -> None:
        self.positions = np.zeros(num_rows, np.int64)
        self.rows = self.starts = self.slots = np.zeros(1, np.int64)
        self.tables = np.zeros((1, 1), np.int64)


def test_a_step_for_which_there_was_no_memory_leaves_none_that_is_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    buffers = StepBuffers(CONFIG, best(), 4)
    small: Any = Inputs(1)
    large: Any = Inputs(5000)
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


def _no_memory(num_bytes: int) -> None:
    raise MemoryError
