"""Where the gateway listens."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from gateway.service import _listen
from tandem.core.errors import ConfigError


def reachable(listening: socket.socket, host: str) -> bool:
    try:
        socket.create_connection((host, listening.getsockname()[1]), 10).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("::1", {"::1"}),
        ("0.0.0.0", {"127.0.0.1"}),
        ("::", {"127.0.0.1", "::1"}),
    ],
)
def test_it_is_reached_at_the_addresses_that_it_was_given(host: str, reached: set[str]) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("THIS MACHINE HAS NO IPV6: listening by it is untested")
    with closing(_listen(host, 0)) as listening:
        assert {each for each in ("127.0.0.1", "::1") if reachable(listening, each)} == reached


def test_an_address_that_is_taken_is_named_as_it_is_written() -> None:
    with closing(_listen("::1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"\[::1\]:{port}: Address already in use"):
            _listen("::1", port)
