"""Greedy decoding agrees with transformers, token for token, for each family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch_driver import Driver, save_random_model
from transformers import (
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

SIZES = {
    "vocab_size": 307,
    "hidden_size": 64,
    "intermediate_size": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
NEW_TOKENS = 40


def llama3_scaling(factor: float) -> dict[str, object]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
        "rope_theta": 10000.0,
    }


CONFIGS: dict[str, PretrainedConfig] = {
    "llama2": LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
    "llama3": LlamaConfig(**SIZES, rope_parameters=llama3_scaling(8.0)),
    "llama-linear": LlamaConfig(
        **SIZES,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
        tie_word_embeddings=True,
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=24, head_dim=32),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=40),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PreTrainedModel]:
    path = tmp_path_factory.mktemp(request.param)
    return path, save_random_model(CONFIGS[request.param], path)


def reference(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    with torch.inference_mode():
        output = model.generate(
            torch.tensor([prompt]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None
        )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("chunk", [16, 1000])
@pytest.mark.parametrize("length", [5, 100])
def test_generates_the_reference_tokens(
    model: tuple[Path, PreTrainedModel], length: int, chunk: int
) -> None:
    path, transformer = model
    prompt = torch.randint(
        0, 307, (length,), generator=torch.Generator().manual_seed(length)
    ).tolist()
    expected = reference(transformer, prompt)
    assert len(set(expected)) > 3, "a model that repeats itself tests little"
    assert Driver(path).generate(prompt, NEW_TOKENS, chunk) == expected


def test_logits_are_close(model: tuple[Path, PreTrainedModel]) -> None:
    path, transformer = model
    prompt = torch.randint(0, 307, (600,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.inference_mode():
        expected = transformer(torch.tensor([prompt])).logits[0, -1]
    driver = Driver(path)
    row = driver.row(prompt)
    driver.step([(row, len(prompt))])
    torch.testing.assert_close(row.logits[len(prompt) - 1], expected, rtol=1e-4, atol=1e-4)
