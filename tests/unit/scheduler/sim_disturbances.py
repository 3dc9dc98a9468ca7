"""What can go wrong in the simulation."""

from __future__ import annotations

from collections.abc import Iterator

from sim_checks import check_drain, check_loss
from sim_client import Client
from sim_link import SimLink
from sim_progress import Action
from sim_system import System
from sim_transfer import Transfer
from sim_worker import DecodeProcess, Process

from tandem.core.errors import DataLoss, Unavailable


class Disturbances:
    """What can go wrong with a system next, of the kinds that its faults are."""

    def __init__(self, system: System) -> None:
        self._system = system

    def actions(self) -> Iterator[Action]:
        """All that can go wrong now."""
        faults = self._system.faults
        if faults.cancels:
            for client in self._system.open_clients():
                yield f"cancel {client.request.request_id}", lambda c=client: self._cancel(c)
        for link in self._system.links:
            yield from self._link_disturbances(link)
            if faults.engine_failures and link.process.is_stepping:
                yield f"{link.name}'s engine fails", lambda p=link.process: self._fail_step(p)
            if isinstance(link.process, DecodeProcess) and link.process.moves:
                yield f"{link.name} cannot move KV", link.process.fail_move
        if faults.transfer_faults:
            for each in self._system.open_transfers():
                yield f"fault in {each.sequence_id}", lambda t=each: self._fault(t)

    def _link_disturbances(self, link: SimLink) -> Iterator[Action]:
        name = link.name
        if link.connected and self._system.faults.breaks:
            yield f"{name}'s stream breaks", link.break_stream
            if link.info and link.serving and not link.suspected:
                yield f"{name} is silent", link.suspect
        if self._system.faults.drains:
            yield from self._drain_disturbances(link)
        if not link.connected:
            yield connect(self._system, link)
            if link.info and self._system.faults.losses:
                yield f"give {name} up", lambda: check_loss(self._system, link.give_up)
        if self._system.faults.losses:
            yield f"kill {name}", lambda: check_loss(self._system, link.kill)
            if not link.connected and link.process.has_lease:
                yield f"{name}'s lease expires", lambda: check_loss(self._system, link.expire)

    def _drain_disturbances(self, link: SimLink) -> Iterator[Action]:
        name, timeout_s = link.name, self._system.random.choice((0, 0.1, 1, 10, 1000))
        if link.process.draining_ms is None:
            yield f"{name} is to end", lambda: link.drain(int(timeout_s * 1000))
        if link.info:
            dispatcher = self._system.dispatcher
            drain, undrain = dispatcher.drain_worker, dispatcher.undrain_worker
            yield f"drain {name}", lambda: check_drain(self._system, lambda: drain(name, timeout_s))
            yield f"undrain {name}", lambda: check_drain(self._system, lambda: undrain(name))

    def _cancel(self, client: Client) -> None:
        assert client.generation is not None
        client.cancelled = True
        self._system.dispatcher.cancel(client.generation)

    def _fail_step(self, process: Process) -> None:
        self._system.failed_ids |= process.fail()

    def _fault(self, transfer: Transfer) -> None:
        """What is damaged on its way is computed again, as what did not get through is."""
        if self._system.random.random() < 0.5:
            transfer.fault = DataLoss("the link is faulty")
        else:
            transfer.fault = Unavailable("the link is closed")


def connect(system: System, link: SimLink) -> Action:
    """A stream is taken up again, after whatever has happened to the worker."""
    return f"connect {link.name}", lambda: check_loss(system, link.connect)
