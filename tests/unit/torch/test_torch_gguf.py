"""A model that went through a GGUF file generates what transformers does with the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from folder_to_gguf import write_gguf
from test_torch_reference import LINEAR, SIZES, assert_greedy, random_tokens, yarn
from torch_driver import Driver, save_random_model
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from tandem.artifacts.gguf_import import import_gguf
from tandem.artifacts.model_folder import ModelFolder
from tandem.core.errors import ConfigError

# Meta's own; a file has no other.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, head_dim=24),
    "llama3": LlamaConfig(**SIZES | {"num_key_value_heads": 1}, rope_parameters=LLAMA3),
    "llama-linear": LlamaConfig(**SIZES, rope_parameters=LINEAR, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=24),
    "mistral-full": MistralConfig(**SIZES, sliding_window=None, head_dim=32),
    "qwen2": Qwen2Config(**SIZES, rope_parameters=yarn()),
    "qwen3": Qwen3Config(**SIZES, head_dim=40, tie_word_embeddings=True),
}


def save_bfloat16_model(config: PretrainedConfig, path: Path) -> torch.nn.Module:
    """Weights that the import's rounding leaves as they are."""
    model = save_random_model(config, path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_generates_the_original_models_tokens(name: str, tmp_path: Path) -> None:
    model = save_bfloat16_model(CONFIGS[name], tmp_path / "original")
    import_gguf(write_gguf(tmp_path / "original", tmp_path / "x.gguf"), tmp_path / "imported")
    imported, original = (
        ModelFolder.open(tmp_path / each).config for each in ("imported", "original")
    )
    assert imported.rope_scaling == original.rope_scaling
    assert imported.windows == original.windows
    prompt = random_tokens(100)
    assert_greedy(model, prompt, Driver(tmp_path / "imported").generate(prompt, 40, 1000))


def test_a_stretching_that_is_not_llama3s_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_random_model(CONFIGS["llama3"], tmp_path / "original")
    factors = np.linspace(1, 32, 8, dtype=np.float32)
    monkeypatch.setattr("folder_to_gguf._frequency_factors", lambda config: factors)
    path = write_gguf(tmp_path / "original", tmp_path / "x.gguf")
    with pytest.raises(ConfigError, match=r"rope_freqs\.weight is not the scaling of a Llama 3"):
        import_gguf(path, tmp_path / "imported")
