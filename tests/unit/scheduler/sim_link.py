"""The streams between the simulation's gateway and its workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim_clock import Clock
from sim_worker import Process

from gateway.command_log import CommandBatch, CommandLog
from gateway.dispatcher import Dispatcher
from tandem.core.errors import Unavailable
from tandem.core.prefix_cache import CacheChanges, PrefixCache
from tandem.core.worker import WorkerInfo
from tandem.v1 import worker_pb2
from tandem.wire.reports import cache_changes_to_wire


@dataclass(frozen=True)
class Message:
    """From a worker to the gateway. With a `snapshot` it is the first of its stream."""

    applied_command: int
    num_free_blocks: int
    report_number: int
    reports: list[Any]
    spans: tuple[worker_pb2.Span, ...] = ()
    cache_changes: CacheChanges | None = None
    snapshot: Any = None
    draining_ms: int | None = None


class SimLink:
    """A `WorkerLink`, its stream, and whatever process is at the other end.

    A stream is `serving` once the gateway has read its snapshot; only then are commands sent.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        start: Callable[[], Process],
        clock: Clock,
    ) -> None:
        self.process = start()
        self.address = f"{self.process.info.worker_id}:1"
        self.info: WorkerInfo | None = None
        self.connected = False
        self.serving = False
        self.suspected = False
        self.leaving = False
        self.down: deque[CommandBatch] = deque()
        self.up: deque[Message] = deque()
        self._start = start
        self._dispatcher = dispatcher
        self._clock = clock
        self._commands = CommandLog()
        self._taken_report = 0

    @property
    def name(self) -> str:
        return self.process.info.worker_id

    # The gateway's end

    def send(self, command: Any) -> None:
        assert self.info is not None, "a command for a worker that is lost"
        self._commands.add(command)

    @property
    def has_due(self) -> bool:
        return self._commands.has_due

    def write(self) -> None:
        """Number what is due, and send it."""
        self.down.append(self._commands.take())

    def read(self) -> None:
        """Take a message."""
        message = self.up.popleft()
        info = self.info
        assert info is not None
        if message.snapshot is not None:
            self._commands.resume()
        if self._commands.applied(message.applied_command) and self.suspected:
            self.suspected = False
            self._dispatcher.trusted(info)
        changes = message.cache_changes
        header = worker_pb2.WorkerHeader(
            num_free_blocks=message.num_free_blocks,
            spans=message.spans,
            prefix_cache=changes and cache_changes_to_wire(changes),
            draining_ms=message.draining_ms,
        )
        self._dispatcher.heard(info, header, self._clock.now_ns(), message.reports)
        if message.snapshot is not None:
            self._dispatcher.resumed(info, message.snapshot, self._commands.open_commands)
            self.down.extend(self._commands.unapplied)
            self.serving = True
        self._taken_report = message.report_number

    def connect(self) -> None:
        """Take the stream up again; join anew if what the worker held is gone."""
        if self.info and not (self.info.epoch == self.process.info.epoch and self._has_lease):
            self.give_up()
        self.connected = True
        if self.info:
            self.process.state.acknowledge(self._taken_report)
            self.process.state.reports.take()
            snapshot = self.process.state.snapshot()
            self._say([], snapshot=snapshot)
            return
        if self.process.draining_ms is not None:
            # It has ended, since nobody held it any more.
            self.process.alive = False
            self.process = self._start()
        self.process.clear()
        self.process.state.reports.take()
        self.process.has_lease = True
        self.info = self.process.info
        self._taken_report = 0
        self.serving = True
        self._dispatcher.joined(self.info, self.address)
        # The snapshot of a worker that joins says only this.
        cache = cache_changes_to_wire(_whole(self.process.state.prefix_cache))
        header = worker_pb2.WorkerHeader(num_free_blocks=self.info.num_blocks, prefix_cache=cache)
        self._dispatcher.heard(self.info, header, self._clock.now_ns())

    def _say(
        self,
        reports: list[Any],
        spans: tuple[worker_pb2.Span, ...] = (),
        snapshot: Any = None,
    ) -> None:
        process = self.process
        free = process.state.num_free_blocks
        number = process.state.reports.last_taken
        cache = process.state.prefix_cache
        changes = CacheChanges.of(cache.take_changes()) if snapshot is None else _whole(cache)
        self.up.append(
            Message(
                process.applied_command,
                free,
                number,
                reports,
                spans,
                changes,
                snapshot,
                process.draining_ms,
            )
        )

    @property
    def _has_lease(self) -> bool:
        return self.process.has_lease

    def give_up(self) -> None:
        """The worker is lost, as far as the gateway can tell."""
        info = self._forget()
        self._dispatcher.lost(info, Unavailable(f"worker {info.worker_id} was lost"))

    def let_go(self) -> None:
        self.leaving = True

    def leave(self) -> None:
        """The goodbye arrives, or the stream breaks before it does: the process ends, and another
        starts in its place, to which it has yet to connect."""
        self._dispatcher.left(self._forget())
        self.process.alive = self.connected = self.serving = False
        self.process = self._start()
        self.down.clear()
        self.up.clear()

    def _forget(self) -> WorkerInfo:
        """What is known of the worker is void."""
        assert self.info is not None
        info, self.info = self.info, None
        self.suspected = self.leaving = False
        self._commands = CommandLog()
        return info

    # The wire, and the worker's end

    def deliver(self) -> None:
        """The worker gets a message."""
        self.process.apply(*self.down.popleft())

    def report(self) -> None:
        """The worker sends what happened; a heartbeat, if nothing did."""
        self.process.news = False
        reports = self.process.state.reports.take()
        steps, self.process.steps = self.process.steps, []
        self._say(reports, tuple(map(self._clock.step, steps)))

    def drain(self, draining_ms: int) -> None:
        """The process is told to end."""
        self.process.draining_ms = draining_ms
        self.process.news = True

    def break_stream(self) -> None:
        if self.leaving:
            self.leave()
            self.connect()
            return
        self.connected = self.serving = False
        self.down.clear()
        self.up.clear()
        if self.info and not self.suspected:
            self.suspect()

    def suspect(self) -> None:
        """Nothing was heard of the worker, or its stream is broken: it gets nothing new."""
        assert self.info is not None
        self.suspected = True
        self._dispatcher.suspected(self.info)

    def kill(self) -> None:
        """The process dies, and another starts in its place."""
        self.process.alive = False
        self.process = self._start()
        self.break_stream()

    def expire(self) -> None:
        """The worker has not heard of the gateway for too long."""
        self.process.has_lease = False
        self.process.clear()
        self.break_stream()


def _whole(cache: PrefixCache) -> CacheChanges:
    return CacheChanges.all_of(cache.take_hashes())
