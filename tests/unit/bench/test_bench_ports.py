"""Ports of servers that are started side by side."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tandem.bench.ports import HOST, NUM_PORTS, SLICE, NoFreePort, PortSlice, free_port

TAKE = "from tandem.bench.ports import free_port; print(free_port(), flush=True); input()"


def test_no_two_processes_are_given_one_port() -> None:
    """Though none of them listens yet."""
    with ExitStack() as stack:
        command = [sys.executable, "-c", TAKE]
        processes = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(12)
        ]
        firsts = [free_port()] + [int(each.stdout.readline()) for each in processes if each.stdout]
        for each in processes:
            each.communicate("\n")
    assert len({first // SLICE for first in firsts}) == 13


def test_a_port_is_not_given_again_while_there_are_others() -> None:
    ports = PortSlice()
    taken = [ports.take() for _ in range(20)]
    assert len({port + each for port in taken for each in range(NUM_PORTS)}) == 20 * NUM_PORTS


def test_ports_that_are_listened_on_are_not_given() -> None:
    ports = PortSlice()
    first, second = ports.take(), ports.take()
    with socket.create_server((HOST, second + NUM_PORTS + 3)):
        assert ports.take() == second + 2 * NUM_PORTS
    assert second == first + NUM_PORTS


def test_where_no_port_is_free_it_is_said() -> None:
    ports = PortSlice()
    with ExitStack() as stack, pytest.raises(NoFreePort, match="something listens on all of"):
        while True:
            stack.enter_context(socket.create_server((HOST, ports.take())))
