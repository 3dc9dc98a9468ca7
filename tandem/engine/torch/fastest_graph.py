"""Which way of computing a step is taken on this GPU: the fastest that computes what the one that
is trusted does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog
import torch
from triton import TritonError

from tandem.core.errors import ConfigError
from tandem.engine.torch.graph_trial import Trial, difference

if TYPE_CHECKING:
    from tandem.engine.torch.decode_graph import DecodeGraph, Way

# Ways that take no more than this times the least are equally fast, and the first of them is taken:
# two GPUs of one kind are to choose alike.
EQUALLY_FAST = 1.02
REPEATS, REPLAYS = 3, 20

log = structlog.get_logger(__name__)


def fastest(
    trial: Trial,
    ways: Sequence[Way],
    record: Callable[[Way], DecodeGraph],
    seconds: Callable[[DecodeGraph], float],
    is_lost: Callable[[], bool],
) -> DecodeGraph:
    """By a trial; the first of the ways is trusted. What another one does wrong, or that it cannot
    be had on this GPU, is logged. Raises `ConfigError` if it has ended the GPU's use for this
    process (`is_lost`)."""
    trusted, *others = ways
    graphs = {trusted.name: record(trusted)}
    if not others:
        return graphs[trusted.name]
    expected = trial.results(graphs[trusted.name])
    took = {trusted.name: seconds(graphs[trusted.name])}
    for way in others:
        try:
            graph = record(way)
            differences = [difference(trial.results(graph), expected)]
            own_seconds = seconds(graph)
            # Once more when its kernels have followed each other without a pause.
            differences.append(difference(trial.results(graph), expected))
        except (TritonError, RuntimeError) as error:
            if is_lost():
                raise ConfigError(
                    f"this GPU fails at steps of {trial.size} tokens by {way.name} ({error}): set "
                    "TANDEM_KERNELS=torch, which leaves these kernels out"
                ) from error
            log.warning("a way cannot be had", way=way.name, rows=trial.size, reason=str(error))
            continue
        # So asked, what is no number is no agreement either.
        if not all(each <= trial.tolerance for each in differences):
            log.error(
                "a way computes something else", way=way.name, rows=trial.size, by=differences
            )
            continue
        graphs[way.name], took[way.name] = graph, own_seconds
    trial.clear()
    chosen = next(name for name in took if took[name] <= EQUALLY_FAST * min(took.values()))
    each_ms = {name: round(1e3 * each, 3) for name, each in took.items()}
    log.info("steps of single tokens", rows=trial.size, way=chosen, ms=each_ms)
    return graphs[chosen]


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
