"""A token's KV and logits are a function of the tokens before it: the same bits, however they are
computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kv_items import read_kv
from torch_driver import Driver, Row, kernels_in_use, save_random_model
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from tandem.core.kv import Plane
from tandem.core.quantization import Quantization
from tandem.native.library import INSTRUCTIONS, TORCH

# Across tiles of queries and of keys, and in the middle of them.
PROMPT_LENGTHS = (1, 3, 40, 250, 300, 530, 700)
NUM_DECODED = 12

# What a `Driver` is made with.
Arm = dict[str, Any]
Expected = dict[int, tuple[list[int], dict[int, torch.Tensor], list[bytes]]]


def tokens_of(length: int) -> list[int]:
    """The prompt and its continuation, fixed: every way of computing is fed the same tokens."""
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, 307, (length + NUM_DECODED,), generator=generator).tolist()


def alone(path: Path, arm: Arm) -> Expected:
    """Each sequence in one prefill of its own, then by single tokens; on one thread."""
    expected: Expected = {}
    for length in PROMPT_LENGTHS:
        driver = Driver(path, seed=length, **arm)
        row = driver.row(tokens_of(length))
        driver.step([(row, length)])
        while row.num_computed < len(row.tokens):
            driver.step([(row, 1)])
        expected[length] = (row.tokens, row.logits, driver.kv(row))
    return expected


def assert_same(driver: Driver, row: Row, expected: Expected, length: int) -> None:
    _, logits, kv = expected[length]
    for position in logits.keys() & row.logits.keys():
        assert torch.equal(row.logits[position], logits[position]), (length, position)
    assert driver.kv(row) == kv, length


# Who computes, in which type, with which weights and KV: the kernels of each instruction set, and
# torch's operations, which keep the bits in float32 alone.
ARMS = [
    *((each, dtype, "none", "auto") for each in INSTRUCTIONS for dtype in ("bfloat16", "float32")),
    *((each, "bfloat16", "int4", "int8") for each in INSTRUCTIONS),
    *((each, "float32", "int8", "auto") for each in INSTRUCTIONS),
    ("avx2", "float32", "none", "int8"),
    (TORCH, "float32", "none", "auto"),
]


@pytest.fixture(scope="module", params=ARMS, ids="-".join)
def arm(request: pytest.FixtureRequest) -> Iterator[Arm]:
    """With the kernels of the arm in use."""
    kernels, dtype, quantization, kv_cache_dtype = request.param
    with kernels_in_use(kernels):
        yield {
            "dtype": dtype,
            "quantization": Quantization(quantization),
            "kv_cache_dtype": kv_cache_dtype,
        }


@pytest.fixture(scope="module")
def expected(llama_path: Path, arm: Arm) -> Expected:
    torch.set_num_threads(1)
    return alone(llama_path, arm)


def next_count(driver: Driver, row: Row, length: int) -> int:
    """How many tokens to compute next: chunks of blocks or the rest of a prompt, then one."""
    rest = length - row.num_computed
    if rest <= 0:
        return 1
    if driver.random.random() < 0.3:
        return rest
    return min(rest, 16 * driver.random.randint(1, 20))


@pytest.mark.parametrize(("seed", "threads"), [(0, 1), (1, 2), (2, 2), (3, 3)])
def test_batches_and_chunks_do_not_show(
    llama_path: Path, expected: Expected, arm: Arm, seed: int, threads: int
) -> None:
    """Nor which of them nobody asks what follows, of which the last layer computes little."""
    torch.set_num_threads(threads)
    driver = Driver(llama_path, seed=seed, **arm, block_size=(16, 8, 64)[seed % 3])
    rows = [(driver.row(tokens_of(length)), length) for length in PROMPT_LENGTHS]
    while pending := [each for each in rows if each[0].num_computed < len(each[0].tokens)]:
        chosen = driver.random.sample(pending, driver.random.randint(1, len(pending)))
        work = [(row, next_count(driver, row, length)) for row, length in chosen]
        unsampled = driver.random.sample(range(len(work)), driver.random.randint(0, len(work)))
        driver.step(work, unsampled=unsampled)
    for row, length in rows:
        assert_same(driver, row, expected, length)


@pytest.mark.parametrize("length", [3, 40, 530])
def test_prefill_and_decode_are_the_same(
    llama_path: Path, expected: Expected, arm: Arm, length: int
) -> None:
    """All in one prefill, and all but the first token by decoding."""
    driver = Driver(llama_path, **arm)
    prefilled, decoded = driver.row(tokens_of(length)), driver.row(tokens_of(length))
    driver.step([(prefilled, len(prefilled.tokens))])
    assert_same(driver, prefilled, expected, length)
    for _ in decoded.tokens:
        driver.step([(decoded, 1)])
    assert_same(driver, decoded, expected, length)


def test_a_moved_sequence_goes_on_with_the_same_bits(
    llama_path: Path, expected: Expected, arm: Arm
) -> None:
    """Prefilled by one engine, decoded by another, other blocks and another model length."""
    sender = Driver(llama_path, seed=1, **arm)
    receiver = Driver(llama_path, seed=2, **arm, max_model_len=800)
    row = sender.row(tokens_of(300))
    sender.step([(row, 300)])
    moved = receiver.row(row.tokens)
    moved.num_computed = 300
    layers = range(sender.engine.pool.layout.num_layers)
    for plane in Plane:
        data = read_kv(sender.engine.pool, plane, layers, row.block_table, 300)
        receiver.engine.pool.write(plane, layers, moved.block_table, 300, data)
    for _ in range(NUM_DECODED):
        receiver.step([(moved, 1)])
    assert_same(receiver, moved, expected, 300)


def test_what_other_sequences_left_in_a_block_does_not_show(
    llama_path: Path, expected: Expected, arm: Arm
) -> None:
    """Not even where it is no number."""
    driver = Driver(llama_path, num_tokens=800, **arm)
    first = driver.row(tokens_of(700), 800)
    driver.step([(first, 700)])
    driver.release(first)
    if driver.engine.model.numerics.startswith("kernels"):
        nothing = b"\xff" * len(driver.all_kv(Plane.KEY))
        for plane in Plane:
            driver.write_all_kv(plane, nothing)
    second = driver.row(tokens_of(250), 300)
    driver.step([(second, 250)])
    while second.num_computed < len(second.tokens):
        driver.step([(second, 1)])
    assert_same(driver, second, expected, 250)


SIZES = {
    "vocab_size": 307,
    "hidden_size": 64,
    "intermediate_size": 144,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=600, head_dim=32),
        LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=100, max_window_layers=1),
        Qwen3Config(**SIZES, head_dim=40),
    ],
    ids=["mistral", "llama", "llama-biases", "qwen2-some-windows", "qwen3"],
)
def test_other_families(config: PretrainedConfig, arm: Arm, tmp_path: Path) -> None:
    save_random_model(config, tmp_path)
    expected = alone(tmp_path, arm)
    test_batches_and_chunks_do_not_show(tmp_path, expected, arm, seed=1, threads=2)


@pytest.mark.parametrize("shared", [16, 240, 528])
def test_a_prompt_behind_another_sequences_blocks_is_the_same(
    llama_path: Path, expected: Expected, arm: Arm, shared: int
) -> None:
    """As one is that finds its beginning cached: in blocks that others have computed, in another
    batch and other chunks, and still read."""
    torch.set_num_threads(2)
    driver = Driver(llama_path, seed=shared, **arm, block_size=16)
    length = 530
    first = driver.row([*tokens_of(length)[:shared], 1, 2, 3])
    driver.step([(first, 16), (driver.row(tokens_of(40)), 40)])
    driver.step([(first, shared + 3 - 16)])
    row = driver.row(tokens_of(length))
    num_blocks = shared // 16
    row.block_table[:num_blocks] = first.block_table[:num_blocks]
    row.num_computed = shared
    driver.step([(row, length - shared)])
    while row.num_computed < len(row.tokens):
        driver.step([(row, 1)])
    assert_same(driver, row, expected, length)
