"""Who reads what is written to it, and who is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from gateway.http.reading import MIN_READ_BYTES, CountingTransport, ReadWatch


class Timer:
    """An event loop's only one, for who makes the time pass."""

    def __init__(self) -> None:
        self.on_time: Callable[[], None] | None = None

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        assert self.on_time is None, "the one before goes on"
        self.on_time = callback
        return self

    def cancel(self) -> None:
        self.on_time = None

    def pass_time(self) -> None:
        assert self.on_time
        on_time, self.on_time = self.on_time, None
        on_time()


class Client(asyncio.Transport):
    """What is written waits until it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.num_unread_bytes = 0
        self.num_writes = 0
        self.is_cut_off = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.num_unread_bytes += len(data)
        self.num_writes += 1

    def read(self, num_bytes: int) -> None:
        self.num_unread_bytes -= num_bytes

    def get_write_buffer_size(self) -> int:
        return self.num_unread_bytes

    def abort(self) -> None:
        self.is_cut_off = True


class Watched:
    """A client whose reading is watched."""

    def __init__(self) -> None:
        self.client = Client()
        self.transport = CountingTransport(self.client)
        self.timer = Timer()
        loop = cast(asyncio.AbstractEventLoop, self.timer)
        self.watch = ReadWatch(self.transport, 60.0, loop)

    def exchange(self, num_bytes: int) -> None:
        """Write so much, and have as much of what waits read."""
        self.transport.write(b"x" * num_bytes)
        self.client.read(num_bytes)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_who_reads_as_much_as_is_written_meanwhile_reads(watched: Watched) -> None:
    """Though as much waits at the end of its time as at the beginning, or more."""
    watched.transport.write(b"x" * 100)
    watched.watch.begin_if_unread()
    for _ in range(5):
        watched.exchange(2 * MIN_READ_BYTES)
        watched.transport.write(b"x" * 100)
        watched.timer.pass_time()
        assert not watched.client.is_cut_off
    watched.timer.pass_time()
    assert watched.client.is_cut_off


def test_who_reads_all_that_waited_reads_however_little_that_was(watched: Watched) -> None:
    watched.transport.write(b"x" * 100)
    watched.watch.begin_if_unread()
    for _ in range(5):
        watched.exchange(100)
        watched.timer.pass_time()
        assert not watched.client.is_cut_off
    watched.exchange(99)
    watched.timer.pass_time()
    assert watched.client.is_cut_off


def test_who_reads_too_little_of_much_is_cut_off(watched: Watched) -> None:
    watched.transport.write(b"x" * 10 * MIN_READ_BYTES)
    watched.watch.begin()
    watched.client.read(MIN_READ_BYTES)
    watched.timer.pass_time()
    assert not watched.client.is_cut_off
    watched.client.read(MIN_READ_BYTES - 1)
    watched.timer.pass_time()
    assert watched.client.is_cut_off


def test_what_is_written_together_is_one_write(watched: Watched) -> None:
    with watched.transport.together():
        for _ in range(3):
            watched.transport.write(b"x" * 10)
        assert watched.transport.num_unread_bytes == 30
        assert watched.client.num_writes == 0
    assert (watched.client.num_writes, watched.transport.num_unread_bytes) == (1, 30)
    with watched.transport.together():
        pass
    assert watched.client.num_writes == 1


def test_nothing_is_watched_once_all_is_read(watched: Watched) -> None:
    watched.watch.begin_if_unread()
    assert not watched.timer.on_time
    watched.transport.write(b"x")
    watched.watch.begin_if_unread()
    watched.client.read(1)
    watched.timer.pass_time()
    assert not watched.timer.on_time
    assert not watched.client.is_cut_off


def test_a_new_time_to_read_ends_the_one_before(watched: Watched) -> None:
    """Which would find too little read of what is unread by then."""
    watched.transport.write(b"x" * 100)
    watched.watch.begin_if_unread()
    watched.transport.write(b"x" * 2 * MIN_READ_BYTES)
    watched.watch.begin()
    watched.client.read(MIN_READ_BYTES)
    watched.timer.pass_time()
    assert not watched.client.is_cut_off
    watched.watch.end()
    assert not watched.timer.on_time
