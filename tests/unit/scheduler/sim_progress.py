"""What happens in the simulation if nothing goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

from sim_checks import check_drain, check_refusal
from sim_link import SimLink
from sim_system import System
from sim_worker import DecodeProcess

from tandem.core.errors import DeadlineExceeded, RateLimitExceeded, Unavailable

Action = tuple[str, Callable[[], None]]
"""Something that can happen next, and what to call it."""


class Progress:
    """A system's next steps."""

    def __init__(self, system: System) -> None:
        self._system = system

    def actions(self) -> Iterator[Action]:
        """All that can happen now."""
        if len(self._system.clients) < self._system.num_to_come:
            yield "submit", self._submit
        if self._system.scheduler.next_deadline_s < inf:
            yield "time passes", self._system.dispatcher.expire
        for link in self._system.links:
            yield from self._link_progress(link)
            yield from self._process_progress(link)
        for transfer in self._system.open_transfers():
            if transfer.can_go_on:
                yield f"transfer {transfer.sequence_id}", transfer.go_on

    def _link_progress(self, link: SimLink) -> Iterator[Action]:
        name = link.name
        if link.serving and link.has_due:
            yield f"write to {name}", link.write
        if link.down:
            yield f"deliver to {name}", link.deliver
        if link.up:
            yield f"read from {name}", link.read
        if link.connected and link.process.news:
            yield f"{name} reports", link.report

    def _process_progress(self, link: SimLink) -> Iterator[Action]:
        process = link.process
        if process.is_stepping:
            yield f"{link.name} lands", process.land
        elif process.runnable:
            at_once = self._system.random.random() < 0.5
            yield f"{link.name} launches", lambda: process.launch(at_once)
        if isinstance(process, DecodeProcess) and process.moves:
            yield f"{link.name} moves KV", process.move
        if link.leaving:
            yield f"{link.name} leaves", lambda: self._leave(link)

    def _leave(self, link: SimLink) -> None:
        check_drain(self._system, link.leave)
        # Whoever comes may take what suspected workers have, which is counted.
        link.connect()

    def _submit(self) -> None:
        client = self._system.requests.new()
        self._system.clients[client.request.request_id] = client
        try:
            stream = self._system.dispatcher.submit(client.request)
        except (Unavailable, RateLimitExceeded, DeadlineExceeded) as refusal:
            client.outcome = refusal
            check_refusal(self._system, client, refusal)
        else:
            client.generation = stream.generation
