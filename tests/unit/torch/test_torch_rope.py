from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import torch
from torch_driver import Driver

from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.core.errors import Mismatch
from tandem.engine.torch import runners
from tandem.models.rope import RotaryEmbedding

CPU = torch.device("cpu")


@pytest.fixture
def config(llama_path: Path) -> ModelConfig:
    return ModelFolder.open(llama_path).config


@pytest.mark.parametrize("num_positions", [1, 7, 100, 777, 1500])
def test_a_rotation_does_not_depend_on_the_length_of_the_table(
    config: ModelConfig, num_positions: int
) -> None:
    positions = torch.arange(num_positions)
    short = RotaryEmbedding(config, num_positions, CPU).rotations(positions)
    long = RotaryEmbedding(config, 2048, CPU).rotations(positions)
    assert torch.equal(short[0], long[0])
    assert torch.equal(short[1], long[1])


def test_making_the_tables_takes_little_more_than_they_do(config: ModelConfig) -> None:
    tracemalloc.start()
    rotary = RotaryEmbedding(config, 100_000, CPU)
    _, peak = tracemalloc.get_traced_memory()  # numpy's, not torch's
    tracemalloc.stop()
    assert peak < rotary.cosines.nbytes / 4


def test_there_are_no_more_positions_than_the_pool_has(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make(config: ModelConfig, num_positions: int, device: torch.device) -> RotaryEmbedding:
        made.append(num_positions)
        return RotaryEmbedding(config, num_positions, device)

    monkeypatch.setattr(runners, "RotaryEmbedding", make)
    driver = Driver(llama_path, num_tokens=160, max_model_len=1024)
    Driver(llama_path, num_tokens=160, max_model_len=100)
    assert made == [160, 100]
    row = driver.row(range(170), 160)
    with pytest.raises(Mismatch, match=r"\[0, 160\)"):
        driver.step([(row, 170)])
