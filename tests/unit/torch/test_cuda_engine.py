"""The engine on a GPU, whole: its graphs, and its steps without, beside the engine on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
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

if not torch.cuda.is_available():
    pytest.skip("NO GPU HERE: the engine on one is untested", allow_module_level=True)

from tandem.engine.torch import decode_graph
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


@pytest.mark.parametrize(
    "name",
    [
        "library",
        "wide tiles",
        "narrow tiles",
        "deep tiles",
        "wide tiles, attention in three",
    ],
)
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
