from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Where there is Triton but no GPU, its kernels are interpreted. It looks when it is imported.
    os.environ["TRITON_INTERPRET"] = "1"

from torch_driver import save_random_model
from transformers import LlamaConfig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Odd sizes on purpose: nothing is a multiple of a vector's length by luck."""
    path = tmp_path_factory.mktemp("llama")
    save_random_model(
        LlamaConfig(
            vocab_size=331,
            hidden_size=72,
            intermediate_size=172,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=24,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        ),
        path,
    )
    return path
