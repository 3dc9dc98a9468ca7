"""What a share of memory leaves for the KV pool, worked out by hand."""

from __future__ import annotations

import pytest

from tandem.artifacts.weight_counts import WeightCounts
from tandem.core.device import CpuDevice, CudaDevice
from tandem.core.errors import ConfigError
from tandem.core.kv import KVLayout
from tandem.core.quantization import Quantization
from tandem.worker.pool_size import MemoryBudget, container_share
from tandem.worker.step_memory import StepMemory

# A block: 16 tokens of 2 layers, K and V, 64 floats.
LAYOUT = KVLayout(num_layers=2, num_kv_heads=1, head_dim=64, block_size=16, dtype="float32")
BLOCK_BYTES = 16_384
# Tied: the head is the embedding. As many weights as 4,000 groups of 32, and 100,000.
WEIGHTS = WeightCounts(embedding=128_000, projections=3_200_000)


def num_blocks(weight_bytes: int, num_sharers: int = 1, memory_bytes: int = 100_000_000) -> int:
    budget = MemoryBudget(CpuDevice(), memory_bytes, 0.5, weight_bytes, num_sharers)
    return budget.num_blocks(LAYOUT)


def test_the_pool_is_what_the_weights_leave() -> None:
    assert LAYOUT.block_bytes == BLOCK_BYTES
    assert num_blocks(0) == 50_000_000 // BLOCK_BYTES
    assert num_blocks(50_000_000 - 3 * BLOCK_BYTES) == 3
    assert num_blocks(50_000_000 - 3 * BLOCK_BYTES + 1) == 2


def test_workers_that_map_the_same_weights_count_a_part_each() -> None:
    weight_bytes = 40_000_001
    assert num_blocks(weight_bytes) == 9_999_999 // BLOCK_BYTES
    assert num_blocks(weight_bytes, num_sharers=2) == 29_999_999 // BLOCK_BYTES
    # Which is room where one alone has none.
    assert num_blocks(90_000_000, num_sharers=2) == 5_000_000 // BLOCK_BYTES


@pytest.mark.parametrize(
    ("limit", "installed", "share"),
    [
        (8, 64, 0.6),
        # Two of them leave some of the machine to others.
        (8, 12, 0.45),
        (8, 8, 0.3),
        (8, 4, 0.3),
        (60, 64, 0.32),
    ],
)
def test_in_a_container_of_its_own_a_worker_takes_most_of_it(
    limit: int, installed: int, share: float
) -> None:
    assert container_share(limit, installed) == pytest.approx(share)


def test_no_room_for_a_block_is_an_error() -> None:
    with pytest.raises(ConfigError, match="50% of the memory") as caught:
        num_blocks(50_000_000 - BLOCK_BYTES + 1)
    assert caught.value.param == "memory_share"


def test_what_others_have_taken_is_not_there() -> None:
    budget = MemoryBudget(CudaDevice(0), 100_000_000, 0.5, weight_bytes=0)
    budget.check_free(50_000_000)
    with pytest.raises(ConfigError, match="50% of the memory of cuda:0 is wanted, and 40% is free"):
        budget.check_free(40_000_000)


def test_steps_of_a_gpu_have_their_part() -> None:
    gpu, mib = CudaDevice(0), 1 << 20
    # As many tokens, rows and words that every term is a number of MiB.
    model = StepMemory(vocab_size=1024, hidden_size=256, intermediate_size=1024, head_dim=64)
    length = 131_072
    activations = 8192 * (4 * 256 + 3 * 1024) * 2 // mib
    assert activations == 64
    assert model.num_bytes(gpu, "bfloat16", length) == (768 + 64 + 1 + 3 + 64) * mib
    assert model.num_bytes(gpu, "float32", length) == (768 + 128 + 2 + 3 + 64) * mib
    assert model.num_bytes(CpuDevice(), "bfloat16", length) == 0
    budget = MemoryBudget(gpu, 100_000_000, 0.5, weight_bytes=0, step_bytes=30_000_000)
    assert budget.num_blocks(LAYOUT) == 20_000_000 // BLOCK_BYTES


@pytest.mark.parametrize(
    ("dtype", "quantization", "num_bytes"),
    [
        ("float32", Quantization.NONE, 4 * 3_328_000),
        ("bfloat16", Quantization.NONE, 2 * 3_328_000),
        # The embedding as it is, the head in 8 bits and 4 bytes for 32, and so on.
        ("float32", Quantization.INT8, 512_000 + 128_000 + 16_000 + 3_200_000 + 400_000),
        ("float32", Quantization.INT4, 512_000 + 128_000 + 16_000 + 1_600_000 + 400_000),
        ("bfloat16", Quantization.INT4, 256_000 + 128_000 + 16_000 + 1_600_000 + 400_000),
    ],
)
def test_weights_count_as_they_are_stored(
    dtype: str, quantization: Quantization, num_bytes: int
) -> None:
    assert WEIGHTS.num_bytes(dtype, quantization) == num_bytes


def test_a_head_of_its_own_counts_once() -> None:
    untied = WeightCounts(embedding=128_000, head=128_000, projections=3_200_000)
    assert untied.num_bytes("float32") == 4 * 3_456_000
    assert untied.num_bytes("float32", Quantization.INT4) == WEIGHTS.num_bytes(
        "float32", Quantization.INT4
    )
