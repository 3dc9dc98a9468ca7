"""What Tandem is to reach beside its peers, by the rounds of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from performance.table import Bound

from peers.records import Records
from tandem.bench.summary import Summary

SPLIT, COLOCATED = "tandem 1p1d", "tandem colocated"
OPENVINO, LLAMA_CPP, VLLM = "openvino http", "llama.cpp", "vllm all cores"
Figure = Callable[[Summary], float | None]


@dataclass(frozen=True)
class PeerGoal:
    """A bound, and the figure of each round that is held against it."""

    bound: Bound
    figures: Callable[[Records], Sequence[float]]

    def reached(self, records: Records) -> str:
        """Empty where it was not measured."""
        figures = self.figures(records)
        return self.bound.of_rounds(figures) if figures else ""


def tokens_per_s(run: Summary) -> float:
    return run.tokens_per_s


def tpot_ms(run: Summary) -> float | None:
    return run.tpot.percentile_ms(50)


def by(arm: str, peer: str, workload: str, figure: Figure) -> Callable[[Records], list[float]]:
    return lambda records: records.ratios(arm, peer, workload, figure)


def in_d(figure: Figure) -> Callable[[Records], list[float]]:
    """Of 1p1d's own rounds."""
    return lambda records: [
        found for run in records.of(SPLIT, "D") if (found := figure(run)) is not None
    ]


def better_in_b(records: Records) -> list[float]:
    """Of 1p1d and colocated, by OpenVINO's, in each round that has all."""
    split, colocated, theirs = (
        {run.seed: run.tokens_per_s for run in records.of(arm, "B")}
        for arm in (SPLIT, COLOCATED, OPENVINO)
    )
    return [
        max(split[seed], colocated[seed]) / theirs[seed]
        for seed in split
        if seed in colocated and seed in theirs
    ]


GOALS = (
    PeerGoal(
        Bound("A: 1p1d's tok/s by OpenVINO's behind HTTP", 1.1, is_least=True),
        by(SPLIT, OPENVINO, "A", tokens_per_s),
    ),
    PeerGoal(
        Bound("A: 1p1d's tok/s by vLLM's", 1.5, is_least=True), by(SPLIT, VLLM, "A", tokens_per_s)
    ),
    PeerGoal(
        Bound("B: the better's tok/s by OpenVINO's behind HTTP", 1.0, is_least=True), better_in_b
    ),
    PeerGoal(
        Bound("C: colocated's time a token by llama.cpp's", 1.0),
        by(COLOCATED, LLAMA_CPP, "C", tpot_ms),
    ),
    PeerGoal(
        Bound("D: 1p1d's tok/s of short streams", 350, ".0f", is_least=True), in_d(tokens_per_s)
    ),
    PeerGoal(
        Bound("D: p99.9 of its intervals, ms", 45, ".1f"),
        in_d(lambda run: run.itl.percentile_ms(99.9)),
    ),
    PeerGoal(Bound("D: its longest interval, ms", 80, ".0f"), in_d(lambda run: run.itl.max_ms())),
    PeerGoal(
        Bound("D: first token of the short ones, p50, ms", 120, ".0f"),
        in_d(lambda run: run.ttft.percentile_ms(50)),
    ),
)
