"""Ports for servers that are started, each of which is given to one of them."""

from __future__ import annotations

import random
import socket
from functools import cache
from itertools import cycle

from tandem.process.ports import is_free

HOST = "127.0.0.1"
# Below those that systems give to connections, one of which would else take a port that was free
# before the server listens there.
FIRST_PORT = 10_000
NUM_SLICES = 80
SLICE = 250
# As many as one server takes.
NUM_PORTS = 8


class NoFreePort(Exception):
    """Other processes hold all slices, or servers listen on all ports of this one's."""


class PortSlice:
    """Ports that no other process is given while this one lives.

    A port found free is not yet taken: its server is still starting. Two processes that each look
    for one, as tests that run side by side do, would now and then find the same."""

    def __init__(self) -> None:
        self._guard, first = _take_slice()
        self._starts = range(first + 1, first + SLICE - NUM_PORTS, NUM_PORTS)
        self._next = cycle(self._starts)

    def take(self) -> int:
        """The first of `NUM_PORTS` that are free, and were not taken for as long as possible."""
        for _ in self._starts:
            start = next(self._next)
            if all(is_free(HOST, start + each) for each in range(NUM_PORTS)):
                return start
        raise NoFreePort(f"something listens on all of {HOST}:{self._starts[0]} and the next")


@cache
def _own_slice() -> PortSlice:
    return PortSlice()


def free_port() -> int:
    """One that is followed by others that are free as well. Raises `NoFreePort`."""
    return _own_slice().take()


def _take_slice() -> tuple[socket.socket, int]:
    """It is held by being bound to its first port, so that it ends with its process."""
    for number in random.sample(range(NUM_SLICES), NUM_SLICES):
        first = FIRST_PORT + SLICE * number
        guard = socket.socket()
        try:
            guard.bind((HOST, first))
        except OSError:
            guard.close()
        else:
            return guard, first
    raise NoFreePort(f"all ports from {FIRST_PORT} on are other processes'")
