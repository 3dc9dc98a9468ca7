from __future__ import annotations

import ctypes
import mmap
import sys

import pytest
import torch

from tandem.core.kv import KVLayout, Plane
from tandem.engine.torch.kv_pool import TorchKVPool
from tandem.engine.torch.pages_ahead import HUGE_PAGE, PagesAhead
from tandem.native.library import best

LAYOUT = KVLayout(num_layers=2, num_kv_heads=2, head_dim=64, block_size=16, dtype="float32")
NUM_BLOCKS = 3 * HUGE_PAGE // (16 * 2 * 64 * 4)


def make_pool() -> TorchKVPool:
    return TorchKVPool(LAYOUT, NUM_BLOCKS, torch.device("cpu"))


def wait(pages: PagesAhead) -> None:
    pages._thread.submit(lambda: None).result()


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
def test_pages_are_there_a_huge_page_before_they_are_used() -> None:
    pool = make_pool()
    a_huge_page = NUM_BLOCKS // 3
    layers = [pool.layer(plane, layer) for plane in Plane for layer in range(2)]
    assert num_there(layers[-1]) == 0
    pages = PagesAhead(best(), pool)
    wait(pages)
    for used in (0, 1, a_huge_page // 2, a_huge_page + 1):
        pages.used(used)
        wait(pages)
        assert all(num_there(layer) >= used + a_huge_page for layer in layers)
    pages.used(NUM_BLOCKS - 1)
    wait(pages)
    assert all(num_there(layer) == NUM_BLOCKS + 1 for layer in layers)


def test_what_is_in_the_pages_stays_as_it_is() -> None:
    pool = make_pool()
    items = pool._items
    items.copy_(torch.randn(items.shape))
    before = items.clone()
    pages = PagesAhead(best(), pool)
    pages.used(NUM_BLOCKS - 1)
    wait(pages)
    assert torch.equal(items, before)
