"""What only a GPU can show of the copies out of its pool and into it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from tandem.core.kv import KVLayout, Plane
from tandem.engine.torch.kv_pool import TorchKVPool

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO GPU HERE: the copies beside its kernels are untested"
)
# About a second.
LONG = 1_500_000_000
LAYERS = range(3)
TOKENS = 20


@pytest.fixture
def pool() -> Iterator[TorchKVPool]:
    yield TorchKVPool(KVLayout(3, 2, 4, 8, "bfloat16"), 10, torch.device("cuda:0"))
    torch.cuda.synchronize()


def test_what_is_written_is_read(pool: TorchKVPool) -> None:
    data = random.Random(0).randbytes(len(LAYERS) * TOKENS * pool.layout.token_bytes)
    pool.write(Plane.KEY, LAYERS, [7, 2, 5], TOKENS, memoryview(data))
    assert bytes(pool.read(Plane.KEY, LAYERS, [7, 2, 5], TOKENS)) == data


def test_a_read_sees_what_was_launched_before_its_layer_was_stored(pool: TorchKVPool) -> None:
    torch.cuda._sleep(LONG // 10)
    pool.layer(Plane.KEY, 1)[4] = 1.0
    pool.stored(1)
    items = bytes(pool.read(Plane.KEY, range(1, 2), [4], 8))
    assert items == torch.ones(8 * 2 * 4, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()


def test_a_read_does_not_wait_for_the_layers_behind(pool: TorchKVPool) -> None:
    """Nor do these wait for it."""
    pool.layer(Plane.KEY, 0)[4] = 1.0
    pool.stored(0)
    torch.cuda._sleep(LONG)
    behind = torch.cuda.Event()
    behind.record()
    pool.read(Plane.KEY, range(0, 1), [4], 8)
    assert not behind.query(), "the read came after what was launched behind its layer"
