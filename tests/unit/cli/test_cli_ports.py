"""The ports of `tandem up`'s workers."""

from __future__ import annotations

import sys

import pytest

from tandem.bench.ports import HOST, free_port
from tandem.cli.ports import claimed_ports


@pytest.mark.skipif(sys.platform != "linux", reason="ONLY LINUX HAS THE NAMES THAT CLAIM PORTS")
def test_two_that_start_at_once_get_ports_of_their_own() -> None:
    base = free_port()
    with claimed_ports(HOST, base, 2, set()) as first:
        assert first == [base, base + 1]
        with claimed_ports(HOST, base, 2, {base + 2}) as second:
            assert second == [base + 3, base + 4]
    with claimed_ports(HOST, base, 2, set()) as again:
        assert again == first
