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
from tandem.core.plan import StepPlan
from tandem.engine.torch.decode_graph import Way
from tandem.engine.torch.fastest_graph import fastest, trial_plan

LOGITS = torch.tensor([[1.0, -8.0, 3.0], [0.5, 2.0, -1.0]])


@dataclass
class FakeGraph:
    """Computes `LOGITS`, but for what is `wrong`, in so many `seconds`."""

    way: Way
    seconds: float
    wrong: float = 0.0

    def replay(self, plan: StepPlan) -> Tensor:
        assert [each.block_table for each in plan.slices] == [(2, 3, 4, 0), (2, 3, 4, 1)]
        assert {each.start for each in plan.slices} == {48}
        return LOGITS + torch.tensor([[0.0, 0.0, self.wrong], [0.0, 0.0, 0.0]])


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

    with capture_logs() as logs:
        plan = trial_plan(2, block_size=16, num_before=3)
        taken = fastest(plan, list(by_way), record, lambda graph: graph.seconds, lambda: is_lost)
    return taken.way.name, [each["log_level"] for each in logs if each["log_level"] != "info"]


def graph(name: str, seconds: float, wrong: float = 0.0) -> FakeGraph:
    return FakeGraph(Way(name, lambda rows, logits: None), seconds, wrong)


def test_the_fastest_is_taken() -> None:
    assert chosen(graph("trusted", 3), graph("a", 2), graph("b", 1), graph("c", 2)) == ("b", [])
    assert chosen(graph("trusted", 1), graph("a", 2, wrong=0.1)) == ("trusted", [])
    assert chosen(graph("alone", 1)) == ("alone", [])


@pytest.mark.parametrize("wrong", [2.0, -2.0, float("nan"), float("inf")])
def test_what_computes_something_else_is_not_taken_and_told_of(wrong: float) -> None:
    assert chosen(graph("trusted", 2), graph("a", 1, wrong)) == ("trusted", ["error"])


@pytest.mark.parametrize("wrong", [0.3, -1.2])
def test_other_roundings_are_right(wrong: float) -> None:
    assert chosen(graph("trusted", 2), graph("a", 1, wrong)) == ("a", [])


def test_what_each_way_takes_is_in_the_log() -> None:
    plan, graphs = trial_plan(2, 16, 3), [graph("trusted", 2), graph("a", 3), graph("b", 1)]
    by_way = {each.way: each for each in graphs}
    with capture_logs() as logs:
        fastest(plan, list(by_way), by_way.__getitem__, lambda each: each.seconds, lambda: False)
    assert [each["ms"] for each in logs] == [{"trusted": 2000.0, "a": 3000.0, "b": 1000.0}]


@pytest.mark.parametrize("error", [TritonError("no shared memory"), RuntimeError("no memory")])
def test_what_cannot_be_had_is_told_of_and_others_are_tried(error: Exception) -> None:
    graphs = graph("trusted", 3), graph("a", 0), graph("b", 2)
    assert chosen(*graphs, error=error) == ("b", ["warning"])


def test_what_goes_wrong_only_when_it_follows_itself_is_not_taken() -> None:
    class Hasty(FakeGraph):
        def replay(self, plan: StepPlan) -> Tensor:
            logits = super().replay(plan)
            self.wrong = float("nan")
            return logits

    hasty = Hasty(Way("hasty", lambda rows, logits: None), 1)
    assert chosen(graph("trusted", 2), hasty) == ("trusted", ["error"])


@pytest.mark.parametrize("fails", ["recorded", "replayed"])
def test_what_has_ended_the_gpus_use_ends_the_start_and_is_named(fails: str) -> None:
    class Faulty(FakeGraph):
        def replay(self, plan: StepPlan) -> Tensor:
            raise error

    error = RuntimeError("an illegal memory access was encountered")
    faulty = Faulty(Way("hasty", lambda rows, logits: None), 0 if fails == "recorded" else 1)
    with pytest.raises(ConfigError, match=r"2 tokens by hasty .*illegal.*TANDEM_KERNELS=torch"):
        chosen(graph("trusted", 2), faulty, error=error, is_lost=True)
    assert chosen(graph("trusted", 2), faulty, error=error) == ("trusted", ["warning"])
