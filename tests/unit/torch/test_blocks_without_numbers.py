"""Blocks whose last holder has left no numbers in them, as a sequence that breaks does, harm nobody
who has them next, nor who runs beside it: to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch_driver import Driver, Row, kernels_in_use, save_random_model
from transformers import LlamaConfig, MistralConfig

from tandem.core.kv import Plane
from tandem.native.library import INSTRUCTIONS, TORCH

SIZES = {
    "vocab_size": 307,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
MODELS = {"llama": LlamaConfig(**SIZES), "window": MistralConfig(**SIZES, sliding_window=37)}
ARMS = [
    *((each, "auto") for each in INSTRUCTIONS),
    *((each, "int8") for each in INSTRUCTIONS),
    (TORCH, "auto"),
]
# Within a block, at the end of one, and in the second tile of keys.
PROMPT_LENGTHS = (1, 21, 32, 530)
# A token whose embedding is none.
WITHOUT_NUMBERS = 306


@pytest.fixture(scope="module", params=MODELS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    save_random_model(MODELS[request.param], path)
    file = path / "model.safetensors"
    weights = load_file(file)
    weights["model.embed_tokens.weight"][WITHOUT_NUMBERS] = torch.inf
    save_file(weights, file, metadata={"format": "pt"})
    return path


def run(driver: Driver) -> list[Row]:
    """Prompts in one step, then a chunk and single tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        driver.row(torch.randint(0, WITHOUT_NUMBERS, (length + 9,), generator=generator).tolist())
        for length in PROMPT_LENGTHS
    ]
    driver.step(list(zip(rows, PROMPT_LENGTHS, strict=True)))
    driver.step([(row, 5) for row in rows])
    for _ in range(4):
        driver.step([(row, 1) for row in rows])
    return rows


@pytest.mark.parametrize(("kernels", "kv_cache_dtype"), ARMS)
def test_whatever_a_pool_holds_the_bits_are_the_same(
    path: Path, kernels: str, kv_cache_dtype: str
) -> None:
    with kernels_in_use(kernels):
        expected = run(Driver(path, kv_cache_dtype=kv_cache_dtype))
        driver = Driver(path, kv_cache_dtype=kv_cache_dtype)
        for plane in Plane:
            # Of float32 all ones are no number, nor are they as a scale.
            driver.write_all_kv(plane, b"\xff" * len(driver.all_kv(plane)))
        rows = run(driver)
    for row, other in zip(rows, expected, strict=True):
        assert row.logits.keys() == other.logits.keys()
        for position, logits in row.logits.items():
            assert logits.isfinite().all()
            assert torch.equal(logits, other.logits[position])


@pytest.mark.parametrize("kernels", [*INSTRUCTIONS, TORCH])
def test_a_broken_sequence_breaks_no_other_of_its_step(path: Path, kernels: str) -> None:
    with kernels_in_use(kernels):
        driver = Driver(path)
        broken, row = driver.row([5] * 20), driver.row([7] * 20)
        alone = driver.row(row.tokens)
        driver.step([(alone, 20)])
        driver.step([(broken, 19), (row, 19)])
        for plane in Plane:
            for layer in range(driver.engine.pool.layout.num_layers):
                driver.engine.pool.layer(plane, layer)[broken.block_table[1]] = torch.nan
        none, _ = driver.step([(broken, 1), (row, 1)])
    assert none is None
    assert torch.equal(row.logits[19], alone.logits[19])


# Not torch's: it adds -infinity to scores that are not to count, and to no number in vain.
@pytest.mark.parametrize(("kernels", "kv_cache_dtype"), ARMS[:-1])
def test_a_token_without_numbers_spoils_none_before_it(
    path: Path, kernels: str, kv_cache_dtype: str
) -> None:
    """Their blocks may be another sequence's prefix: the same, whatever was in the chunk."""
    with kernels_in_use(kernels):
        driver = Driver(path, kv_cache_dtype=kv_cache_dtype)
        prompt = list(range(40))
        alone, followed = driver.row(prompt), driver.row([*prompt, WITHOUT_NUMBERS, *prompt])
        driver.step([(alone, 40)])
        (token,) = driver.step([(followed, 81)])
        followed.num_computed = 40
    assert token is None
    assert driver.kv(followed) == driver.kv(alone)
