"""Of the ways to compute a step the fastest is taken that is right."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

pytest.importorskip("triton", reason="TRITON IS NOT INSTALLED: the GPU's graphs are untested")

from triton import TritonError

from tandem.core.plan import StepPlan
from tandem.engine.torch.decode_graph import Way
from tandem.engine.torch.fastest_graph import fastest

LOGITS = torch.tensor([[1.0, -8.0, 3.0], [0.5, 2.0, -1.0]])


@dataclass
class FakeGraph:
    """Computes `LOGITS`, but for what is `wrong`, in so many `seconds`."""

    way: Way
    seconds: float
    wrong: float = 0.0

    def replay(self, plan: StepPlan) -> Tensor:
        assert [each.block_table for each in plan.slices] == [(0,), (1,)]
        return LOGITS + torch.tensor([[0.0, 0.0, self.wrong], [0.0, 0.0, 0.0]])


def chosen(*graphs: FakeGraph) -> tuple[str, list[str]]:
    """The name of the way that is taken, and what is logged beside that, by level."""
    by_way = {each.way: each for each in graphs}

    def record(way: Way) -> FakeGraph:
        if by_way[way].seconds == 0:
            raise TritonError("too much shared memory")
        return by_way[way]

    with capture_logs() as logs:
        taken = fastest(2, list(by_way), record, lambda graph: graph.seconds)
    return taken.way.name, [each["log_level"] for each in logs if each["log_level"] != "info"]


def graph(name: str, seconds: float, wrong: float = 0.0) -> FakeGraph:
    return FakeGraph(Way(name, lambda rows, logits: None), seconds, wrong)


def test_the_fastest_is_taken() -> None:
    assert chosen(graph("trusted", 3), graph("a", 2), graph("b", 1), graph("c", 2)) == ("b", [])
    assert chosen(graph("trusted", 1), graph("a", 2, wrong=0.1)) == ("trusted", [])
    assert chosen(graph("alone", 1)) == ("alone", [])


@pytest.mark.parametrize("wrong", [0.5, -0.5, float("nan"), float("inf")])
def test_what_computes_something_else_is_not_taken_and_told_of(wrong: float) -> None:
    assert chosen(graph("trusted", 2), graph("a", 1, wrong)) == ("trusted", ["error"])


def test_other_roundings_are_right() -> None:
    assert chosen(graph("trusted", 2), graph("a", 1, wrong=0.3)) == ("a", [])


def test_what_cannot_be_compiled_is_told_of_and_others_are_tried() -> None:
    assert chosen(graph("trusted", 3), graph("a", 0), graph("b", 2)) == ("b", ["warning"])
