from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.models.rope import RotaryEmbedding

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
