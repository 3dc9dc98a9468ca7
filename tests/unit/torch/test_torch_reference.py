"""Greedy decoding agrees with transformers, token for token, for each family."""

from __future__ import annotations

import json
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
GROUPS_OF_1 = {"num_key_value_heads": 4}
GROUPS_OF_3 = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 72}
GROUPS_OF_4 = {"num_key_value_heads": 1}
NEW_TOKENS = 40
# The reference's own choice between two tokens is no stronger than float32's noise below this.
LEAST_GAP = 1e-3


def llama3(factor: float) -> dict[str, object]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
        "rope_theta": 10000.0,
    }


def yarn(**others: object) -> dict[str, object]:
    original = {"factor": 4.0, "original_max_position_embeddings": 256}
    return {"rope_type": "yarn", "rope_theta": 1e6, **original, **others}


LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
SLIDING = {"use_sliding_window": True, "sliding_window": 24}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama2": LlamaConfig(**SIZES | GROUPS_OF_1),
    "llama3": LlamaConfig(**SIZES | GROUPS_OF_4, rope_parameters=llama3(8.0)),
    "llama3.2": LlamaConfig(
        **SIZES | GROUPS_OF_3, rope_parameters=llama3(32.0), tie_word_embeddings=True, head_dim=24
    ),
    "llama-linear": LlamaConfig(**SIZES, rope_parameters=LINEAR, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "smollm2": LlamaConfig(
        **SIZES | GROUPS_OF_3,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        rms_norm_eps=1e-5,
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=24, head_dim=32),
    "mistral-full": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2-tied-yarn": Qwen2Config(**SIZES, tie_word_embeddings=True, rope_parameters=yarn()),
    "qwen2-window": Qwen2Config(**SIZES, **SLIDING, max_window_layers=0),
    "qwen2-some-windows": Qwen2Config(**SIZES, **SLIDING, max_window_layers=1),
    "qwen3": Qwen3Config(**SIZES | GROUPS_OF_4, head_dim=40),
    "qwen3-yarn": Qwen3Config(
        **SIZES,
        head_dim=128,
        tie_word_embeddings=True,
        rope_parameters=yarn(attention_factor=1.2, beta_fast=16.0, beta_slow=2.0, truncate=False),
    ),
    "qwen3-biases": Qwen3Config(**SIZES, head_dim=16, attention_bias=True),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PreTrainedModel]:
    path = tmp_path_factory.mktemp(request.param)
    return path, save_random_model(CONFIGS[request.param], path)


def random_tokens(length: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, SIZES["vocab_size"], (length,), generator=generator).tolist()


def assert_greedy(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> None:
    """Each of `tokens` is the reference's choice, those before it forced, but for near ties."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + tokens[:-1]])).logits[0, len(prompt) - 1 :]
    best = logits.topk(2)
    for position, token in enumerate(tokens):
        gap = (best.values[position, 0] - best.values[position, 1]).item()
        if gap < LEAST_GAP:
            assert token in best.indices[position], position
        else:
            assert token == best.indices[position, 0], (position, gap)
    ties = (best.values[:, 0] - best.values[:, 1] < LEAST_GAP).sum()
    assert ties <= 1, "a model of near ties tests little"
    assert len(set(tokens)) > 3, "a model that repeats itself tests little"


@pytest.mark.parametrize("chunk", [16, 1000])
@pytest.mark.parametrize("length", [1, 5, 100, 300])
def test_generates_the_reference_tokens(
    model: tuple[Path, PreTrainedModel], length: int, chunk: int
) -> None:
    path, transformer = model
    prompt = random_tokens(length)
    assert_greedy(transformer, prompt, Driver(path).generate(prompt, NEW_TOKENS, chunk))


def test_logits_are_close(model: tuple[Path, PreTrainedModel]) -> None:
    path, transformer = model
    prompt = random_tokens(600)
    with torch.inference_mode():
        expected = transformer(torch.tensor([prompt])).logits[0, -1]
    driver = Driver(path)
    row = driver.row(prompt)
    driver.step([(row, len(prompt))])
    torch.testing.assert_close(row.logits[len(prompt) - 1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama3.2", "qwen2", "qwen3"])
def test_shards_are_the_same_model(name: str, tmp_path: Path) -> None:
    model = save_random_model(CONFIGS[name], tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 3
    prompt = random_tokens(40)
    assert_greedy(model, prompt, Driver(tmp_path).generate(prompt, NEW_TOKENS, 1000))


@pytest.mark.parametrize("key", ["type", "rope_type"])
@pytest.mark.parametrize("name", ["llama3", "llama-linear", "qwen2-tied-yarn", "smollm2"])
def test_configs_of_older_transformers_are_the_same_model(
    name: str, key: str, tmp_path: Path
) -> None:
    """Before version 5: `rope_theta` and `rope_scaling` side by side, the type under either key."""
    model = save_random_model(CONFIGS[name], tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    rope_type = scaling.pop("rope_type")
    config["rope_scaling"] = None if rope_type == "default" else {key: rope_type, **scaling}
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    file.write_text(json.dumps(config))
    prompt = random_tokens(100)
    assert_greedy(model, prompt, Driver(tmp_path).generate(prompt, NEW_TOKENS, 1000))
