"""The engine on a GPU, whole: its graphs, and its steps without, beside the engine on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from kv_items import read_kv
from torch_driver import (
    BFLOAT16_NOISE,
    WIDE_LLAMA,
    Driver,
    assert_close,
    assert_runs_ahead,
    random_prompts,
    save_random_model,
    take_batches,
    take_steps,
)

from tandem.core.device import CudaDevice
from tandem.core.kv import Plane

if not torch.cuda.is_available():
    pytest.skip("NO GPU HERE: the engine on one is untested", allow_module_level=True)

from tandem.engine.torch import decode_graph, graph_trial
from tandem.engine.torch.decode_graph import DecodeGraph, Way
from tandem.engine.torch.graph_trial import Trial

GPU = CudaDevice(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_random_model(WIDE_LLAMA, tmp_path)
    return tmp_path


def test_chunks_and_batches_are_the_cpus(path: Path) -> None:
    drivers = Driver(path, seed=1), Driver(path, seed=2, device=GPU)
    computed = []
    for driver in drivers:
        rows = [driver.row(prompt) for prompt in random_prompts((1, 5, 40, 130, 333))]
        take_steps(driver, rows)
        computed.append(rows)
    for pair in zip(*computed, strict=True):
        assert_close(drivers, pair, torch.float32, 1e-4)


def only(name: str) -> Callable[..., DecodeGraph]:
    """In place of `fastest`: the way of this name, where it is one."""

    def choose(
        trial: Trial, ways: Sequence[Way], record: Callable[[Way], DecodeGraph], *_: object
    ) -> DecodeGraph:
        return record(next((way for way in ways if way.name == name), ways[0]))

    return choose


WAYS = ["library", "wide tiles", "narrow tiles", "deep tiles", "wide tiles, attention in three"]


@pytest.mark.parametrize("name", WAYS)
def test_batches_of_every_size_are_the_cpus_by_each_way(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by the graph of each size: rows that are left over, members that change."""
    monkeypatch.setattr(decode_graph, "fastest", only(name))
    sizes = (1, 2, 3, 17, 33, 64, 65, 100, 16, 1)
    options = {"dtype": "bfloat16", "num_tokens": 16_000}
    drivers = Driver(path, seed=1, **options), Driver(path, seed=2, device=GPU, **options)
    graphs = drivers[1].engine.runner.graphs
    assert name in {graph.way.name for graph in graphs._graphs.values()}
    computed = [take_batches(driver, sizes) for driver in drivers]
    for pair in zip(*computed, strict=True):
        assert_close(drivers, pair, torch.bfloat16, BFLOAT16_NOISE)


def test_steps_that_are_launched_ahead_take_the_tokens_of_the_step_before(path: Path) -> None:
    driver = Driver(path, device=GPU)
    driver.engine.warm_up()
    assert_runs_ahead(driver)


@pytest.mark.parametrize("name", WAYS[1:])
def test_chained_graphs_have_the_same_bits_however_often_while_kv_is_copied_beside_them(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that begins before its inputs are there has others' now and then."""
    monkeypatch.setattr(decode_graph, "fastest", only(name))
    driver = Driver(path, device=GPU, dtype="bfloat16", num_tokens=16_000)
    pool, is_over = driver.engine.pool, threading.Event()

    def copy() -> None:
        while not is_over.is_set():
            read_kv(pool, Plane.KEY, range(pool.layout.num_layers), range(900, 1000), 1600)

    beside = threading.Thread(target=copy)
    beside.start()
    try:
        for size, graph in driver.engine.runner.graphs._graphs.items():
            if graph.way.name != name:
                continue
            expected = graph_trial.Trial(pool, size, 1024).results(graph)[-3]
            num_wrong = torch.zeros((), dtype=torch.int64, device="cuda")
            for _ in range(100):
                # These follow each other at once.
                for _ in range(10):
                    graph.replay_again()
                num_wrong += (graph._logits.float() != expected).any()
            assert int(num_wrong) == 0, f"of 100 of {size} rows"
    finally:
        is_over.set()
        beside.join()
