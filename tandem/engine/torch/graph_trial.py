"""Steps by which ways of computing them are compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tandem.core.kv import Plane
from tandem.core.plan import SampleSpec, SequenceSlice, StepPlan
from tandem.core.sampling_params import SamplingParams
from tandem.engine.torch.kv_pool import TorchKVPool

if TYPE_CHECKING:
    from tandem.engine.torch.decode_graph import DecodeGraph

# Blocks of a row's own: its second token may be the first of a block.
OWN_BLOCKS = 2
# At most so many that all rows have in common.
MOST_BEFORE = 32
# How far a way may be from the one that is trusted, by the root mean square: other orders of the
# same roundings. In bfloat16 they come to 2 to 3% through 16 layers, and add up as a random walk
# does. Of what reads or stores wrong items it is 20% at the least (`test_graph_trial.py`).
TOLERANCE, TOLERATED_LAYERS = 0.05, 16

GREEDY = SampleSpec(SamplingParams(max_tokens=1, seed=0, temperature=0.0))


@dataclass(frozen=True, slots=True)
class Trial:
    """Steps of `size` single tokens in a pool where no block is anybody's: over few tokens before,
    and over many; and each time a second one, which reads what the first has stored."""

    pool: TorchKVPool
    size: int
    max_model_len: int

    @property
    def fits(self) -> bool:
        num_blocks, block_size = self.pool.num_blocks, self.pool.layout.block_size
        most = min(num_blocks // self.size, self.max_model_len // block_size)
        return most >= OWN_BLOCKS

    @property
    def tolerance(self) -> float:
        """Up to which `difference` may be."""
        return TOLERANCE * math.sqrt(max(1.0, self.pool.layout.num_layers / TOLERATED_LAYERS))

    def results(self, graph: DecodeGraph) -> list[Tensor]:
        """What the steps leave, each time over the same numbers: the logits of each, [rows, items],
        and the keys and the values that they have stored."""
        self._fill()
        results = []
        for plan in self._plans():
            results.append(graph.replay(plan).float().clone())
            results.extend(self._stored(plan))
        return results

    def clear(self) -> None:
        """Leave the pool as it was."""
        for each in self._layers():
            each.zero_()

    def _plans(self) -> Iterator[StepPlan]:
        for num_before in (0, self._most_before):
            for step in range(2):
                yield trial_plan(self.size, self.pool.layout.block_size, num_before, step)

    @property
    def _most_before(self) -> int:
        there = self.pool.num_blocks - OWN_BLOCKS * self.size
        longest = self.max_model_len // self.pool.layout.block_size - OWN_BLOCKS
        return min(MOST_BEFORE, there, longest)

    def _layers(self) -> Iterator[Tensor]:
        """What the trial uses of each plane and layer."""
        num_blocks = OWN_BLOCKS * self.size + self._most_before
        for plane in Plane:
            for layer in range(self.pool.layout.num_layers):
                yield self.pool.layer(plane, layer)[:num_blocks]

    def _fill(self) -> None:
        """With numbers that are all different: zeros are the same wherever they are read."""
        for seed, each in enumerate(self._layers()):
            each.normal_(generator=torch.Generator(each.device).manual_seed(seed))

    def _stored(self, plan: StepPlan) -> Iterator[Tensor]:
        block_size = self.pool.layout.block_size
        slots = [
            each.block_table[each.start // block_size] * block_size + each.start % block_size
            for each in plan.slices
        ]
        for plane in Plane:
            layers = (self.pool.layer(plane, at) for at in range(self.pool.layout.num_layers))
            stored = [each.flatten(0, 1)[slots].flatten(1) for each in layers]
            yield torch.cat(stored, dim=1).float()


def trial_plan(size: int, block_size: int, num_before: int, step: int = 0) -> StepPlan:
    """The next tokens of as many sequences, all different, in blocks of their own, which are the
    first ones of the pool; before these they have the next `num_before` blocks, or one or two less.
    They are at all places of a block. `step` 1 is the one behind that."""
    slices = []
    for row in range(size):
        first = OWN_BLOCKS * size
        before = range(first, first + max(0, num_before - row % 3))
        own = range(OWN_BLOCKS * row, OWN_BLOCKS * (row + 1))
        start = (len(before) + 1) * block_size - 1 - row % block_size + step
        # Another table is another sequence's.
        sequence_id = -1 - row - size * num_before
        slices.append(
            SequenceSlice(sequence_id, (size * step + row,), start, (*before, *own), GREEDY)
        )
    return StepPlan(step, tuple(slices))


def difference(results: list[Tensor], expected: list[Tensor]) -> float:
    """By how much of the expected ones' size results differ in the row where they differ most, each
    by its root mean square; no number if a result is none."""
    worst = [
        (one - other).square().mean(dim=1).sqrt().div(other.square().mean(dim=1).sqrt()).max()
        for one, other in zip(results, expected, strict=True)
    ]
    return float(torch.stack(worst).max())
