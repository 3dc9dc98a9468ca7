"""Transfers of the simulation: what sender, wire and receiver do, in small steps.

A transfer is a generator; wherever it yields, anything else may happen before it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kv_items import read_kv
from sim_worker import LAYOUT, DecodeProcess, PrefillProcess

from tandem.core.blocks import SequenceBlocks
from tandem.core.commands import Destination
from tandem.core.errors import Cancelled, TandemError, Unavailable
from tandem.core.kv import Plane
from tandem.core.plan import StepPlan
from tandem.engine.protocols import LayerHook
from tandem.transfer.codec import FrameHeader
from tandem.transfer.layer_grouper import LayerGrouper, Region
from tandem.transfer.reservation import Reservation

FindDecode = Callable[[str], DecodeProcess]


@dataclass(eq=False)
class Transfer:
    """One sequence's KV on its way to its reservation."""

    source: PrefillProcess
    sequence_id: int
    destination: Destination
    blocks: SequenceBlocks
    find: FindDecode
    due: list[Region] = field(default_factory=list)
    first_token_id: int | None = None
    aborted: bool = False
    fault: TandemError | None = None
    waiting: bool = False
    over: bool = False

    def __post_init__(self) -> None:
        self._grouper = LayerGrouper(LAYOUT, self.destination.num_cached_tokens)
        self._steps = self._run()

    @property
    def can_go_on(self) -> bool:
        return not self.waiting or bool(self.due) or self.first_token_id is not None or self._stops

    @property
    def _stops(self) -> bool:
        return self.aborted or self.fault is not None or not self.source.alive

    def layer_done(self, layer: int, end: int) -> None:
        self.due.extend(self._grouper.layer_done(layer, end))

    def go_on(self) -> None:
        """To the next point at which others may act."""
        try:
            next(self._steps)
        except StopIteration:
            self.over = True
        except TandemError as error:
            self.over = True
            if not self.aborted and self.source.alive:
                self.source.act(self.source.state.transfer_failed, self.sequence_id, error)

    def _run(self) -> Iterator[None]:
        yield
        target = self.find(self.destination.address)
        reservation = target.state.reservation(self.destination.transfer_id, self.destination.epoch)
        number = 0
        while self.due or self.first_token_id is None:
            self.waiting = not self.due
            if self.waiting:
                yield
            elif self._goes_on(target):
                region = self.due.pop(0)
                for plane in Plane:
                    yield from self._send(target, reservation, plane, region, number)
                    number += 1
            if self._stops and not self._goes_on(target):
                return
        yield
        if self._goes_on(target):
            self._finish(target, reservation)
            yield
        if self._goes_on(target):
            self.source.act(self.source.state.transfer_done, self.sequence_id, number)

    def _goes_on(self, target: DecodeProcess) -> bool:
        """False if the sender has stopped. Raises what it would be told."""
        if self.aborted or not self.source.alive:
            return False
        if self.fault:
            raise self.fault
        if not target.alive:
            raise Unavailable("the receiver is gone")
        return True

    def _send(
        self,
        target: DecodeProcess,
        reservation: Reservation,
        plane: Plane,
        region: Region,
        number: int,
    ) -> Iterator[None]:
        if not self._goes_on(target):
            return
        header = FrameHeader(
            self.destination.transfer_id,
            self.destination.epoch,
            number,
            plane,
            region.layers,
            region.first_token,
            region.end - region.first_token,
        )
        if not self.blocks.begin_access():
            raise Cancelled("the sequence was dropped")
        yield
        first = header.first_token // LAYOUT.block_size
        ids = self.blocks.ids[first : LAYOUT.blocks_for(header.end)]
        items = read_kv(self.source.engine.pool, plane, header.layers, ids, header.num_tokens)
        self.blocks.end_access()
        self.source.runnable = True
        if self._goes_on(target):
            reservation.check(header)
            reservation.begin_write()
            yield
            # The receiver stores what it has, whatever becomes of the sender meanwhile.
            ids = reservation.block_ids(header)
            target.engine.pool.write(plane, header.layers, ids, header.num_tokens, items)
            reservation.cover(header)
            reservation.end_write()
            target.runnable = True

    def _finish(self, target: DecodeProcess, reservation: Reservation) -> None:
        reservation.check_open()
        reservation.check_covered()
        reservation.finish(self.first_token_id, None)
        target.armed.add(self.sequence_id)
        target.act(target.state.reservation_complete, reservation)


class SimTransfers:
    """The `Transfers` of one prefill process."""

    def __init__(self, find: FindDecode) -> None:
        self.all: list[Transfer] = []
        self._find = find
        self._by_id: dict[int, Transfer] = {}
        self.source: PrefillProcess | None = None

    def start(self, sequence_id: int, destination: Destination, blocks: SequenceBlocks) -> None:
        assert self.source is not None
        assert sequence_id not in self._by_id, "a transfer is started twice"
        transfer = Transfer(self.source, sequence_id, destination, blocks, self._find)
        self._by_id[sequence_id] = transfer
        self.all.append(transfer)

    def layer_hook(self, plan: StepPlan) -> LayerHook:
        def layer_done(layer: int) -> None:
            for each in plan.slices:
                if transfer := self._by_id.get(each.sequence_id):
                    transfer.layer_done(layer, each.end)

        return layer_done

    def finish(
        self, sequence_id: int, first_token_id: int, logprobs: object, compute_end_ns: int
    ) -> None:
        if transfer := self._by_id.get(sequence_id):
            transfer.first_token_id = first_token_id

    def abort(self, sequence_id: int) -> None:
        if transfer := self._by_id.pop(sequence_id, None):
            transfer.aborted = True
