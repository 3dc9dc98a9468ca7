"""Addresses are read and written alike, and a name's are of one family."""

import pytest

from tandem.core.address import Address, of_one_family, parse_address
from tandem.core.errors import ConfigError


@pytest.mark.parametrize("text", ["decode:50052", "10.0.0.1:1", "[::1]:50052", "[fd00::2]:65535"])
def test_addresses_come_back_as_they_were(text: str) -> None:
    assert str(parse_address(text)) == text


def test_a_scheme_is_to_be_left_out() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address("http://gw:50050", "address")
    assert caught.value.message.endswith("write host:port, without http://")
    assert caught.value.param == "address"
    with pytest.raises(ConfigError, match=r"write host:port$"):
        parse_address("gw")


@pytest.mark.parametrize("port", ["0", "65536", "1234567890", "0000808080", "00000080", "-1", ""])
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        parse_address(f"gw:{port}")


def test_brackets_are_not_part_of_the_host() -> None:
    assert parse_address(" [::1]:7 ") == Address("::1", 7)


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["::1", "127.0.0.1"], ["127.0.0.1"]),
        (["10.0.0.2", "fd00::2", "10.0.0.1", "10.0.0.2"], ["10.0.0.2", "10.0.0.1"]),
        (["fd00::2", "fd00::1"], ["fd00::2", "fd00::1"]),
        ([], []),
    ],
)
def test_a_worker_with_an_address_of_each_family_is_met_once(
    hosts: list[str], expected: list[str]
) -> None:
    assert of_one_family(hosts) == expected
