from __future__ import annotations

import random

import pytest
import torch

from tandem.core.kv import KVLayout, Plane
from tandem.engine.torch.kv_pool import TorchKVPool

CPU = torch.device("cpu")


def make_pool(dtype: str = "float32") -> TorchKVPool:
    return TorchKVPool(KVLayout(3, 2, 4, 8, dtype), num_blocks=10, device=CPU)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_tokens", [0, 1, 8, 19, 24])
@pytest.mark.parametrize("layers", [range(3), range(1, 2), range(2, 2)])
def test_what_is_written_is_read(dtype: str, num_tokens: int, layers: range) -> None:
    pool = make_pool(dtype)
    data = random.Random(0).randbytes(len(layers) * num_tokens * pool.layout.token_bytes)
    pool.write(Plane.VALUE, layers, [7, 2, 5], num_tokens, memoryview(data))
    assert bytes(pool.read(Plane.VALUE, layers, [7, 2, 5], num_tokens)) == data
    assert not any(pool.read(Plane.KEY, layers, [7, 2, 5], num_tokens))
    assert not any(pool.read(Plane.VALUE, layers, [0, 1, 3, 4, 6, 8, 9], 56))


def test_items_are_where_the_contract_says() -> None:
    pool = make_pool()
    pool.layer(Plane.KEY, 1)[4, 3, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    data = pool.read(Plane.KEY, range(1, 3), [9, 4], 12)
    items = torch.frombuffer(bytearray(data), dtype=torch.float32).view(2, 12, 2, 4)
    assert items[0, 11, 1].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert items.count_nonzero() == 4


def test_data_may_lie_at_any_address() -> None:
    pool = make_pool()
    data = random.Random(0).randbytes(1 + pool.layout.token_bytes)
    pool.write(Plane.KEY, range(1), [0], 1, memoryview(data)[1:])
    assert bytes(pool.read(Plane.KEY, range(1), [0], 1)) == data[1:]


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_data_of_another_size_is_refused(size: int) -> None:
    pool = make_pool()
    with pytest.raises(ValueError, match="bytes"):
        pool.write(Plane.KEY, range(1), [0], 1, memoryview(bytes(size)))
    assert not any(pool.read(Plane.KEY, range(1), [0], 8))


@pytest.mark.parametrize(
    ("layers", "blocks", "num_tokens"),
    [
        (range(2, 4), [0], 1),
        (range(-1, 1), [0], 1),
        (range(0, 3, 2), [0], 1),
        (range(1), [0], 9),
        (range(1), [0], -1),
        (range(1), [10], 1),
        (range(1), [-1], 1),
    ],
)
def test_no_such_region(layers: range, blocks: list[int], num_tokens: int) -> None:
    pool = make_pool()
    with pytest.raises(ValueError):
        pool.read(Plane.KEY, layers, blocks, num_tokens)
    with pytest.raises(ValueError):
        pool.write(Plane.KEY, layers, blocks, num_tokens, memoryview(b""))


def test_bytes_outlive_later_writes() -> None:
    pool = make_pool()
    before = pool.read(Plane.KEY, range(3), [1], 8)
    pool.write(Plane.KEY, range(3), [1], 8, memoryview(b"\1" * before.nbytes))
    assert not any(before)
