from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from tandem.core.kv import KVLayout, Plane
from tandem.engine.torch import pages_ahead
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.pages_ahead import HUGE_PAGE
from tandem.native.library import best

LAYOUT = KVLayout(num_layers=2, num_kv_heads=2, head_dim=64, block_size=16, dtype="float32")
NUM_BLOCKS = 5 * HUGE_PAGE // (16 * 2 * 64 * 4)


@pytest.fixture(autouse=True)
def trimmed_heap() -> None:
    """Or a pool's memory may be what another test has left free, with its pages."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def pool() -> Iterator[TorchKVPool]:
    pool = TorchKVPool(LAYOUT, NUM_BLOCKS, torch.device("cpu"), best())
    yield pool
    pool.close()


def wait(pool: TorchKVPool) -> None:
    assert pool._pages
    pool._pages._executor.submit(lambda: None).result()


def is_there(block: torch.Tensor) -> bool:
    """Whether the system has given the first page of a block."""
    page = block.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    resident = ctypes.c_ubyte()
    result = ctypes.CDLL(None).mincore(
        ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), ctypes.byref(resident)
    )
    assert result == 0
    return bool(resident.value & 1)


def num_there(layer: torch.Tensor) -> int:
    """How many blocks from the first on are."""
    there = [is_there(block) for block in layer]
    return there.index(False) if False in there else len(there)


@pytest.mark.skipif(sys.platform != "linux", reason="ONLY LINUX TELLS WHICH PAGES ARE THERE")
def test_pages_are_there_a_huge_page_before_they_are_used(pool: TorchKVPool) -> None:
    a_huge_page = NUM_BLOCKS // 5
    layers = [pool.layer(plane, layer) for plane in Plane for layer in range(2)]
    for used in (0, 1, a_huge_page // 2, a_huge_page + 1):
        pool.used(used)
        wait(pool)
        assert all(used + a_huge_page <= num_there(layer) for layer in layers)
    assert num_there(layers[-1]) < NUM_BLOCKS
    # What comes by the wire is written as well.
    data = memoryview(bytes(LAYOUT.token_bytes))
    pool.write(Plane.KEY, range(1), [NUM_BLOCKS - 1], 1, data)
    wait(pool)
    assert all(num_there(layer) == NUM_BLOCKS + 1 for layer in layers)


@pytest.mark.skipif(sys.platform != "linux", reason="ONLY LINUX TELLS WHICH PAGES ARE THERE")
def test_idle_time_goes_further(monkeypatch: pytest.MonkeyPatch) -> None:
    layers_and_planes, a_huge_page = 4, NUM_BLOCKS // 5
    monkeypatch.setattr(pages_ahead, "IDLE_AHEAD_BYTES", layers_and_planes * 2 * HUGE_PAGE)
    with closing(TorchKVPool(LAYOUT, NUM_BLOCKS, torch.device("cpu"), best())) as pool:
        layers = [pool.layer(plane, layer) for plane in Plane for layer in range(2)]

        def num_parts() -> int:
            wait(pool)
            return sum(iter(pool.use_idle_time, False))

        assert num_parts() == 2 * layers_and_planes
        assert all(3 * a_huge_page <= num_there(layer) < NUM_BLOCKS for layer in layers)
        assert num_parts() == 0
        # Of what the thread has not touched by now there are the last page and the spare block.
        pool.used(3 * a_huge_page)
        assert num_parts() == 2 * layers_and_planes
        assert all(num_there(layer) == NUM_BLOCKS + 1 for layer in layers)
        assert num_parts() == 0


def test_what_is_written_late_touches_nothing_any_more(pool: TorchKVPool) -> None:
    pool.close()
    pool.used(NUM_BLOCKS - 1)
    assert num_there(pool.layer(Plane.VALUE, 1)) < NUM_BLOCKS


def test_without_kernels_pages_come_when_they_are_written_to() -> None:
    pool = TorchKVPool(LAYOUT, NUM_BLOCKS, torch.device("cpu"))
    pool.used(NUM_BLOCKS - 1)
    assert num_there(pool.layer(Plane.VALUE, 1)) == 0
    pool.close()


def test_what_is_in_the_pages_stays_as_it_is(pool: TorchKVPool) -> None:
    items = pool._items
    items.copy_(torch.randn(items.shape))
    before = items.clone()
    pool.used(NUM_BLOCKS - 1)
    wait(pool)
    assert torch.equal(items, before)
