from __future__ import annotations

import random
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from kv_items import read_kv

from tandem.core.kv import KVLayout, Plane
from tandem.engine.torch.kv_copies import HostCopies
from tandem.engine.torch.kv_pool import TorchKVPool

CPU = torch.device("cpu")
GPU = torch.device("cuda") if torch.cuda.is_available() else CPU
Copies = Callable[[torch.Tensor], Any]


def on_a_gpu(items: torch.Tensor) -> Any:
    from tandem.engine.torch.device_copies import DeviceCopies

    return DeviceCopies(items)


# What a GPU's pool does can be tried where there is none: Triton interprets.
BOTH = [
    HostCopies,
    pytest.param(
        on_a_gpu,
        marks=pytest.mark.skipif(
            find_spec("triton") is None,
            reason="TRITON IS NOT INSTALLED: the copies of a GPU's pool are untested",
        ),
    ),
]


def make_pool(dtype: str = "float32", copies: Copies = HostCopies) -> TorchKVPool:
    device = CPU if copies is HostCopies else GPU
    pool = TorchKVPool(KVLayout(3, 2, 4, 8, dtype), num_blocks=10, device=device)
    pool.copies = copies(pool._items)
    return pool


def test_a_pool_in_host_memory_is_copied_in_place() -> None:
    pool = TorchKVPool(KVLayout(3, 2, 4, 8, "float32"), num_blocks=10, device=CPU)
    assert isinstance(pool.copies, HostCopies)


@pytest.mark.parametrize("copies", BOTH)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("num_tokens", [0, 1, 8, 19, 24])
@pytest.mark.parametrize("layers", [range(3), range(1, 2), range(2, 2)])
def test_what_is_written_is_read(
    dtype: str, num_tokens: int, layers: range, copies: Copies
) -> None:
    pool = make_pool(dtype, copies)
    data = random.Random(0).randbytes(len(layers) * num_tokens * pool.layout.token_bytes)
    pool.write(Plane.VALUE, layers, [7, 2, 5], num_tokens, memoryview(data))
    assert bytes(read_kv(pool, Plane.VALUE, layers, [7, 2, 5], num_tokens)) == data
    assert not any(read_kv(pool, Plane.KEY, layers, [7, 2, 5], num_tokens))
    assert not any(read_kv(pool, Plane.VALUE, layers, [0, 1, 3, 4, 6, 8, 9], 56))


@pytest.mark.parametrize("copies", BOTH)
def test_items_are_where_the_contract_says(copies: Copies) -> None:
    pool = make_pool(copies=copies)
    pool.layer(Plane.KEY, 1)[4, 3, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    data = read_kv(pool, Plane.KEY, range(1, 3), [9, 4], 12)
    items = torch.frombuffer(bytearray(data), dtype=torch.float32).view(2, 12, 2, 4)
    assert items[0, 11, 1].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert items.count_nonzero() == 4


@pytest.mark.parametrize("copies", BOTH)
@pytest.mark.parametrize("num_tokens", [1, 8, 13])
def test_data_may_lie_at_any_address(num_tokens: int, copies: Copies) -> None:
    pool = make_pool(copies=copies)
    data = random.Random(0).randbytes(1 + 2 * num_tokens * pool.layout.token_bytes)
    pool.write(Plane.KEY, range(1, 3), [4, 0], num_tokens, memoryview(data)[1:])
    out = memoryview(bytearray(len(data) + 1))
    pool.read_into(Plane.KEY, range(1, 3), [4, 0], num_tokens, out[1:-1])
    assert out == b"\0" + data[1:] + b"\0"


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_data_of_another_size_is_refused(size: int) -> None:
    pool = make_pool()
    with pytest.raises(ValueError, match="bytes"):
        pool.write(Plane.KEY, range(1), [0], 1, memoryview(bytes(size)))
    with pytest.raises(ValueError, match="bytes"):
        pool.read_into(Plane.KEY, range(1), [0], 1, memoryview(bytearray(size)))
    assert not any(read_kv(pool, Plane.KEY, range(1), [0], 8))


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
        read_kv(pool, Plane.KEY, layers, blocks, num_tokens)
    with pytest.raises(ValueError):
        pool.write(Plane.KEY, layers, blocks, num_tokens, memoryview(b""))


def test_bytes_outlive_later_writes() -> None:
    pool = make_pool()
    before = read_kv(pool, Plane.KEY, range(3), [1], 8)
    pool.write(Plane.KEY, range(3), [1], 8, memoryview(b"\1" * before.nbytes))
    assert not any(before)
