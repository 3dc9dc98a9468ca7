"""A prefill worker's sending side, as its batches see it."""

from __future__ import annotations

from typing import Protocol

from tandem.core.blocks import SequenceBlocks
from tandem.core.commands import Destination
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import StepPlan
from tandem.engine.protocols import LayerHook


class Transfers(Protocol):
    """What a `BatchQueue` asks of the sending side. Called under the worker's lock, but for
    `layer_hook`; never waits."""

    def start(self, sequence_id: int, destination: Destination, blocks: SequenceBlocks) -> None:
        """Open a sequence's transfer."""
        ...

    def layer_hook(self, plan: StepPlan) -> LayerHook:
        """What to call after each layer of a step."""
        ...

    def finish(
        self,
        sequence_id: int,
        first_token_id: int,
        logprobs: TokenLogprobs | None,
        compute_end_ns: int,
    ) -> None:
        """The step that computed the last of a sequence's KV is done."""
        ...

    def abort(self, sequence_id: int) -> None:
        """Drop a sequence's transfer, if there is one."""
        ...
