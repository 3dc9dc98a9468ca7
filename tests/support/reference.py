"""The reference implementation: transformers, in float32, on the same folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM


class Reference:
    """Greedy decoding by transformers."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model.eval()

    @torch.inference_mode()
    def logits(self, prompt: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float32]:
        """The logits from which each of `tokens` was to be chosen, those before it forced:
        `[len(tokens), vocab_size]`."""
        ids = torch.tensor([[*prompt, *tokens[:-1]]])
        logits = self._model(ids, logits_to_keep=len(tokens)).logits[0]
        return logits.float().numpy()

    @torch.inference_mode()
    def generate(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        ids = torch.tensor([prompt])
        # The mask is given: generate would take the pad token in a chat prompt for padding.
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
        )
        return output[0, len(prompt) :].tolist()
