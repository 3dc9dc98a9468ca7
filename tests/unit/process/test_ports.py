"""Why a server cannot listen."""

from __future__ import annotations

import errno
import socket

import pytest

from tandem.process.ports import obstacle


def test_a_machine_without_ipv6_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(family: int) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    found = obstacle("::", 50051)
    assert found is not None
    assert found.errno == errno.EAFNOSUPPORT
