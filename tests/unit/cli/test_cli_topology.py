import pytest

from tandem.core.errors import ConfigError
from tandem.core.topology import Topology, parse_topology


@pytest.mark.parametrize("text", ["1p1d", "1p2d", "2p1d", "12p34d", "colocated", "colocated:2"])
def test_a_topology_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_topology(text)) == text


def test_the_numbers_are_the_workers() -> None:
    topology = parse_topology("2p3d")
    assert topology == Topology(num_prefill=2, num_decode=3)
    assert topology.num_workers == 5


@pytest.mark.parametrize(
    "text",
    ["", "1p", "0p1d", "1p0d", "1p1", "1P1D", " 1p1d", "1p1d\n", "²p1d", "1000p1d", "colocated:0"],
)
def test_an_unknown_topology_is_refused_with_what_is_known(text: str) -> None:
    with pytest.raises(ConfigError, match="1p1d, 1p2d or 2p1d") as raised:
        parse_topology(text)
    assert raised.value.param == "topology"


def test_colocated_workers_are_decode_workers_alone() -> None:
    assert parse_topology("colocated") == parse_topology("colocated:1") == Topology(0, 1)
    assert parse_topology("colocated:3") == Topology(num_prefill=0, num_decode=3)
