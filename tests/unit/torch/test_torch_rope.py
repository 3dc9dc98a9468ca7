from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.core.errors import ConfigError
from tandem.models.rope import RotaryEmbedding, inverse_frequencies

CPU = torch.device("cpu")


@pytest.fixture
def config(llama_path: Path) -> ModelConfig:
    return ModelFolder.open(llama_path).config


@pytest.mark.parametrize("num_positions", [1, 7, 100, 777])
def test_a_rotation_does_not_depend_on_the_length_of_the_table(
    config: ModelConfig, num_positions: int
) -> None:
    positions = torch.arange(num_positions)
    short = RotaryEmbedding(config, num_positions, CPU).rotations(positions)
    long = RotaryEmbedding(config, 2048, CPU).rotations(positions)
    assert torch.equal(short[0], long[0])
    assert torch.equal(short[1], long[1])


def test_unknown_scaling_is_named(config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="'yarn' is not supported"):
        inverse_frequencies(replace(config, rope_scaling={"rope_type": "yarn", "factor": 4.0}))


def test_missing_factor_is_named(config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="factor"):
        inverse_frequencies(replace(config, rope_scaling={"rope_type": "linear"}))
