"""Which way of computing a step is taken on this GPU: the fastest that computes what the one that
is trusted does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog
import torch
from torch import Tensor
from triton import TritonError

from tandem.core.errors import ConfigError
from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams

if TYPE_CHECKING:
    from tandem.engine.torch.decode_graph import DecodeGraph, Way

# By how much of the highest logit's size the others may differ: other orders of the same roundings,
# in bfloat16 2.5% through 16 layers of width 1,024, more through more. What reads wrong items is
# about as far off as the logits are high.
TOLERANCE = 0.2
REPEATS, REPLAYS = 3, 20

log = structlog.get_logger(__name__)


def fastest(
    plan: StepPlan,
    ways: Sequence[Way],
    record: Callable[[Way], DecodeGraph],
    seconds: Callable[[DecodeGraph], float],
    is_lost: Callable[[], bool],
) -> DecodeGraph:
    """By a plan that is tried; the first of the ways is trusted. What another one does wrong, or
    that it cannot be had on this GPU, is logged. Raises `ConfigError` if it has ended the GPU's
    use for this process (`is_lost`)."""
    trusted, *others = ways
    chosen = record(trusted)
    if not others:
        return chosen
    expected = chosen.replay(plan).clone()
    took = {trusted.name: seconds(chosen)}
    size = len(plan.slices)
    for way in others:
        try:
            graph = record(way)
            differences = [_difference(graph.replay(plan), expected)]
            own_seconds = seconds(graph)
            # Once more when its kernels have followed each other without a pause.
            differences.append(_difference(graph.replay(plan), expected))
        except (TritonError, RuntimeError) as error:
            if is_lost():
                raise ConfigError(
                    f"this GPU fails at steps of {size} tokens by {way.name} ({error}): set "
                    "TANDEM_KERNELS=torch, which leaves these kernels out"
                ) from error
            log.warning("a way cannot be had", way=way.name, rows=size, reason=str(error))
            continue
        # So asked, what is no number is no agreement either.
        if not all(each <= TOLERANCE for each in differences):
            log.error("a way computes something else", way=way.name, rows=size, by=differences)
            continue
        if own_seconds < min(took.values()):
            chosen = graph
        took[way.name] = own_seconds
    each_ms = {name: round(1e3 * each, 3) for name, each in took.items()}
    log.info("steps of single tokens", rows=size, way=chosen.way.name, ms=each_ms)
    return chosen


def trial_plan(size: int, block_size: int, num_before: int) -> StepPlan:
    """The next tokens of as many sequences, all different, in blocks of their own, which are the
    first ones of the pool. Before these all have the next `num_before` blocks: in a pool where no
    block is anybody's, whatever they hold."""
    sample = SampleSpec(SamplingParams(max_tokens=1, seed=0, temperature=0.0))
    before = tuple(range(size, size + num_before))
    start = num_before * block_size
    slices = (SequenceSlice(-1 - row, (row,), start, (*before, row), sample) for row in range(size))
    return StepPlan(0, tuple(slices))


def replay_seconds(graph: DecodeGraph) -> float:
    """What the GPU takes for the graph's last step: the least of some measurements."""
    times = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(REPLAYS):
            graph.replay_again()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / REPLAYS)
    return min(times)


def _difference(logits: Tensor, expected: Tensor) -> float:
    return float((logits - expected).abs().max() / expected.abs().max())
