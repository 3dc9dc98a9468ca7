"""The steps that the engine was given and has not handed in yet, and who is in them."""

from __future__ import annotations

from collections.abc import Sequence

from decode_service.held_sequence import HeldSequence
from tandem.core.kv import KVLayout
from tandem.core.plan import StepPlan

Chunk = tuple[HeldSequence, int]
"""A prompt that a step goes on with, and up to which of its tokens."""


class StepsUnderWay:
    """Numbers the steps, from 1 on. For as long as a sequence is in one, that holds an access to
    its blocks."""

    def __init__(self, layout: KVLayout) -> None:
        self._layout = layout
        self._num_steps = 0
        # By the number of the step, in the order of its slices.
        self._sequences: dict[int, list[HeldSequence]] = {}

    def launch(self, running: Sequence[HeldSequence], chunks: Sequence[Chunk]) -> StepPlan:
        """A step of the next tokens of `running`, for which there are blocks, and of `chunks`."""
        for held in running:
            held.blocks.grow(self._layout.blocks_for(held.num_stepped_tokens))
        self._num_steps += 1
        plan = StepPlan(
            self._num_steps,
            (
                *(held.next_slice(self._layout) for held in running),
                *(held.chunk(end, self._layout) for held, end in chunks),
            ),
            num_prefill_tokens=sum(end - held.progress.num_computed for held, end in chunks),
        )
        stepped = [*running, *(held for held, _ in chunks)]
        for held in stepped:
            held.blocks.begin_access()
            held.num_steps_under_way += 1
        self._sequences[plan.number] = stepped
        return plan

    def land(self, plan: StepPlan) -> list[HeldSequence]:
        """A step is over: its sequences, in the order of its slices, which no longer use their
        blocks for it."""
        stepped = self._sequences.pop(plan.number)
        for held in stepped:
            held.num_steps_under_way -= 1
            held.blocks.end_access()
        return stepped
