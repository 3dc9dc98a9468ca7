"""What steps take of a GPU's memory beside weights and KV: from above, and by arithmetic, so that
it can be asked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.artifacts.config import ModelConfig
from tandem.core.device import CpuDevice, CudaDevice
from tandem.core.kv import ITEM_SIZES

# The driver's context, and what the libraries of matrix products work in.
LIBRARY_BYTES = 768 << 20
# More tokens than a batch is likely to have.
MOST_TOKENS = 8192
# The most rows that a step of single tokens has, and how many are sampled for at a time, each in a
# dozen float64.
MOST_ROWS = 256
ROWS_AT_A_TIME = 32
SAMPLING_BYTES = 12 * 8
# Logits as products give them: those that the recorded steps leave, and those of a step that is
# launched kernel by kernel.
NUM_LOGITS = 2


@dataclass(frozen=True, slots=True)
class StepMemory:
    """The sizes of a model that decide it."""

    vocab_size: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    head_dim: int = 0

    @classmethod
    def of(cls, config: ModelConfig) -> StepMemory:
        return cls(config.vocab_size, config.hidden_size, config.intermediate_size, config.head_dim)

    def num_bytes(self, device: CpuDevice | CudaDevice, dtype: str, max_model_len: int) -> int:
        """0 on a CPU, whose memory has room beside the share that is taken of it."""
        if isinstance(device, CpuDevice):
            return 0
        # The residual stream, its norm, queries with keys and values, and what is added; gates and
        # ups, and their products.
        items = 4 * self.hidden_size + 3 * self.intermediate_size
        activations = MOST_TOKENS * items * ITEM_SIZES[dtype]
        logits = MOST_ROWS * self.vocab_size * NUM_LOGITS * ITEM_SIZES[dtype]
        sampling = ROWS_AT_A_TIME * self.vocab_size * SAMPLING_BYTES
        # Cosines and sines, in float32.
        rotary = 2 * max_model_len * self.head_dim * ITEM_SIZES["float32"]
        return LIBRARY_BYTES + activations + logits + sampling + rotary
