"""Of the ways to compute a step the fastest is taken that is right."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's graphs are untested")

from triton import TritonError

from tandem.core.errors import ConfigError
from tandem.engine.torch.decode_graph import Way
from tandem.engine.torch.fastest_graph import fastest

LOGITS = torch.tensor([[1.0, -8.0, 3.0], [0.5, 2.0, -1.0]])


@dataclass
class FakeGraph:
    """Computes `LOGITS`, but for what is `wrong`, in so many `seconds`."""

    way: Way
    seconds: float
    wrong: float = 0.0

    def results(self) -> list[Tensor]:
        return [LOGITS + torch.tensor([[0.0, 0.0, self.wrong], [0.0, 0.0, 0.0]])]


@dataclass
class FakeTrial:
    """Of two rows."""

    size: int = 2
    tolerance: float = 0.05
    is_clear: bool = False

    def results(self, graph: FakeGraph) -> list[Tensor]:
        self.is_clear = False
        return graph.results()

    def clear(self) -> None:
        self.is_clear = True


def chosen(
    *graphs: FakeGraph, error: Exception | None = None, is_lost: bool = False
) -> tuple[str, list[str]]:
    """The name of the way that is taken, and what is logged beside that, by level. To record one
    that takes no time raises an `error`."""
    by_way = {each.way: each for each in graphs}

    def record(way: Way) -> FakeGraph:
        if by_way[way].seconds == 0:
            raise error
        return by_way[way]

    trial = FakeTrial()
    with capture_logs() as logs:
        taken = fastest(trial, list(by_way), record, lambda graph: graph.seconds, lambda: is_lost)
    assert trial.is_clear == (len(graphs) > 1)
    return taken.way.name, [each["log_level"] for each in logs if each["log_level"] != "info"]


def graph(name: str, seconds: float, wrong: float = 0.0) -> FakeGraph:
    return FakeGraph(Way(name, lambda rows, logits: None), seconds, wrong)


def test_the_fastest_is_taken() -> None:
    assert chosen(graph("trusted", 3), graph("a", 2), graph("b", 1), graph("c", 2)) == ("b", [])
    assert chosen(graph("trusted", 1), graph("a", 2, wrong=0.1)) == ("trusted", [])
    assert chosen(graph("alone", 1)) == ("alone", [])


def test_of_those_that_are_equally_fast_the_first_is_taken() -> None:
    """Two GPUs of one kind choose alike, whatever noise there is in what they measure."""
    graphs = graph("trusted", 1.05), graph("a", 1.01), graph("b", 1.0), graph("c", 1.0)
    assert chosen(*graphs) == ("a", [])
    assert chosen(graph("trusted", 1.01), *graphs[1:]) == ("trusted", [])


@pytest.mark.parametrize("wrong", [2.0, -2.0, float("nan"), float("inf")])
def test_what_computes_something_else_is_not_taken_and_told_of(wrong: float) -> None:
    assert chosen(graph("trusted", 2), graph("a", 1, wrong)) == ("trusted", ["error"])


@pytest.mark.parametrize("wrong", [0.3, -0.4])
def test_other_roundings_are_right(wrong: float) -> None:
    assert chosen(graph("trusted", 2), graph("a", 1, wrong)) == ("a", [])


def test_what_each_way_takes_is_in_the_log() -> None:
    graphs = [graph("trusted", 2), graph("a", 3), graph("b", 1)]
    by_way = {each.way: each for each in graphs}
    with capture_logs() as logs:
        fastest(
            FakeTrial(), list(by_way), by_way.__getitem__, lambda each: each.seconds, lambda: False
        )
    assert [each["ms"] for each in logs] == [{"trusted": 2000.0, "a": 3000.0, "b": 1000.0}]


@pytest.mark.parametrize("error", [TritonError("no shared memory"), RuntimeError("no memory")])
def test_what_cannot_be_had_is_told_of_and_others_are_tried(error: Exception) -> None:
    graphs = graph("trusted", 3), graph("a", 0), graph("b", 2)
    assert chosen(*graphs, error=error) == ("b", ["warning"])


def test_what_goes_wrong_only_when_it_follows_itself_is_not_taken() -> None:
    class Hasty(FakeGraph):
        def results(self) -> list[Tensor]:
            results = super().results()
            self.wrong = float("nan")
            return results

    hasty = Hasty(Way("hasty", lambda rows, logits: None), 1)
    assert chosen(graph("trusted", 2), hasty) == ("trusted", ["error"])


@pytest.mark.parametrize("fails", ["recorded", "replayed"])
def test_what_has_ended_the_gpus_use_ends_the_start_and_is_named(fails: str) -> None:
    class Faulty(FakeGraph):
        def results(self) -> list[Tensor]:
            raise error

    error = RuntimeError("an illegal memory access was encountered")
    faulty = Faulty(Way("hasty", lambda rows, logits: None), 0 if fails == "recorded" else 1)
    with pytest.raises(ConfigError, match=r"2 tokens by hasty .*illegal.*TANDEM_KERNELS=torch"):
        chosen(graph("trusted", 2), faulty, error=error, is_lost=True)
    assert chosen(graph("trusted", 2), faulty, error=error) == ("trusted", ["warning"])
