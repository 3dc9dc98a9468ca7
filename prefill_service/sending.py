"""From the batch queue to the KV sender: out of the engine's thread, onto the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tandem.core.blocks import SequenceBlocks
from tandem.core.commands import Destination
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import StepPlan
from tandem.engine.protocols import LayerHook
from tandem.transfer.sender import KvSender


class LoopTransfers:
    """`Transfers` that hands every call to the event loop, which keeps their order. `on_crash` is
    called if one fails there, of which nobody else would hear."""

    def __init__(
        self,
        sender: KvSender,
        loop: asyncio.AbstractEventLoop,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._sender = sender
        self._loop = loop
        self._on_crash = on_crash

    def start(self, sequence_id: int, destination: Destination, blocks: SequenceBlocks) -> None:
        self._call_soon(self._sender.start, sequence_id, destination, blocks)

    def layer_hook(self, plan: StepPlan) -> LayerHook:
        def layer_done(layer: int) -> None:
            self._call_soon(self._layer_done, plan, layer)

        return layer_done

    def finish(
        self,
        sequence_id: int,
        first_token_id: int,
        logprobs: TokenLogprobs | None,
        compute_end_ns: int,
    ) -> None:
        self._call_soon(self._finish, sequence_id, first_token_id, logprobs, compute_end_ns)

    def abort(self, sequence_id: int) -> None:
        self._call_soon(self._sender.abort, sequence_id)

    def _call_soon(self, function: Callable[..., None], *args: object) -> None:
        self._loop.call_soon_threadsafe(self._call, function, *args)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        try:
            function(*args)
        except BaseException as error:
            self._on_crash(error)
            raise

    def _layer_done(self, plan: StepPlan, layer: int) -> None:
        for each in plan.slices:
            if transfer := self._sender.get(each.sequence_id):
                transfer.layer_done(layer, each.end)

    def _finish(
        self,
        sequence_id: int,
        first_token_id: int,
        logprobs: TokenLogprobs | None,
        compute_end_ns: int,
    ) -> None:
        if transfer := self._sender.get(sequence_id):
            transfer.finish(first_token_id, logprobs, compute_end_ns)
