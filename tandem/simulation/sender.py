"""KV on its way from a prefill worker: layer by layer over its one link, while it computes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tandem.core.blocks import SequenceBlocks
from tandem.core.commands import Destination
from tandem.core.errors import TandemError
from tandem.core.kv import KVLayout, Plane
from tandem.core.logprobs import TokenLogprobs
from tandem.core.plan import StepPlan
from tandem.core.reports import Span, SpanKind
from tandem.engine.protocols import LayerHook
from tandem.simulation.events import HOP_S, Events, to_ns
from tandem.transfer.layer_grouper import LayerGrouper

SendKv = Callable[[Destination, int], None]
"""All KV of a sequence is at its destination, and so is its first token. Raises `TandemError`."""


@dataclass(slots=True, eq=False)
class Transfer:
    """One sequence's. The link has carried what there is of it by `carried_s`; that took it
    `link_s` seconds in all."""

    destination: Destination
    grouper: LayerGrouper
    num_bytes: int = 0
    link_s: float = 0.0
    carried_s: float = 0.0


class VirtualSender:
    """The `Transfers` of one prefill worker. Regions are those that the real sender makes, and go
    over the link one at a time, in the order in which they are due. `on_done(sequence_id,
    num_bytes)` or `on_failed(sequence_id, error)` is called when the receiver's answer is back."""

    def __init__(
        self,
        events: Events,
        layout: KVLayout,
        link_bandwidth: float,
        send: SendKv,
        *,
        on_done: Callable[[int, int], None],
        on_failed: Callable[[int, TandemError], None],
        on_span: Callable[[Span], None],
    ) -> None:
        self._events = events
        self._layout = layout
        self._link_bandwidth = link_bandwidth
        self._send = send
        self._on_done = on_done
        self._on_failed = on_failed
        self._on_span = on_span
        self._transfers: dict[int, Transfer] = {}
        self._link_free_s = 0.0

    def start(self, sequence_id: int, destination: Destination, blocks: SequenceBlocks) -> None:
        """As in `Transfers`. The blocks are only counted, not read."""
        grouper = LayerGrouper(self._layout, destination.num_cached_tokens)
        self._transfers[sequence_id] = Transfer(destination, grouper)

    def layer_hook(self, plan: StepPlan) -> LayerHook:
        """What to call when a layer's share of a step's time is over."""

        def layer_done(layer: int) -> None:
            for each in plan.slices:
                if transfer := self._transfers.get(each.sequence_id):
                    self._layer_done(transfer, layer, each.end)

        return layer_done

    def finish(
        self,
        sequence_id: int,
        first_token_id: int,
        logprobs: TokenLogprobs | None,
        compute_end_ns: int,
    ) -> None:
        """As in `Transfers`."""
        if transfer := self._transfers.get(sequence_id):
            arrival_s = max(transfer.carried_s, self._events.now_s) + HOP_S
            self._events.at(arrival_s, self._arrive, sequence_id, transfer, first_token_id)

    def abort(self, sequence_id: int) -> None:
        """As in `Transfers`. What was to go over the link goes over it all the same."""
        self._transfers.pop(sequence_id, None)

    def _layer_done(self, transfer: Transfer, layer: int, end: int) -> None:
        for region in transfer.grouper.layer_done(layer, end):
            num_tokens = region.end - region.first_token
            num_bytes = len(Plane) * len(region.layers) * num_tokens * self._layout.token_bytes
            link_s = num_bytes / self._link_bandwidth
            self._link_free_s = max(self._link_free_s, self._events.now_s) + link_s
            transfer.carried_s = self._link_free_s
            transfer.num_bytes += num_bytes
            transfer.link_s += link_s

    def _arrive(self, sequence_id: int, transfer: Transfer, first_token_id: int) -> None:
        if self._transfers.get(sequence_id) is not transfer:
            return  # Aborted.
        del self._transfers[sequence_id]
        try:
            self._send(transfer.destination, first_token_id)
        except TandemError as error:
            self._events.after(HOP_S, self._on_failed, sequence_id, error)
        else:
            self._events.after(HOP_S, self._acknowledged, sequence_id, transfer)

    def _acknowledged(self, sequence_id: int, transfer: Transfer) -> None:
        end_s = transfer.carried_s
        self._on_span(
            Span(
                SpanKind.FRAME_SENT,
                to_ns(end_s - transfer.link_s),
                to_ns(end_s),
                sequence_id=sequence_id,
                num_bytes=transfer.num_bytes,
            )
        )
        self._on_done(sequence_id, transfer.num_bytes)
