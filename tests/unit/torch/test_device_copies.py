"""What only a GPU can show of the copies out of its pool and into it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from kv_items import read_kv

from tandem.core.kv import KVLayout, Plane
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.stored_layers import StoredLayers

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
    assert bytes(read_kv(pool, Plane.KEY, LAYERS, [7, 2, 5], TOKENS)) == data


def test_a_layer_is_told_when_it_is_in_the_pool(pool: TorchKVPool) -> None:
    """The step's next layers run meanwhile, and a read does not wait for them, nor they for it."""
    items: list[bytes] = []
    behind = torch.cuda.Event()

    def on_layer(layer: int) -> None:
        items.append(bytes(read_kv(pool, Plane.KEY, range(layer, layer + 1), [4], 8)))
        assert not behind.query(), "it was told after what was launched behind its layer"

    layers = StoredLayers(on_layer)
    torch.cuda._sleep(LONG // 10)
    pool.layer(Plane.KEY, 1)[4] = 1.0
    layers.queued(1)
    torch.cuda._sleep(LONG)
    behind.record()
    assert not items
    layers.wait()
    ones = torch.ones(8 * 2 * 4, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    assert items == [ones]
