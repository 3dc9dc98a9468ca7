"""The ports of `tandem up`."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest

from tandem.bench.ports import HOST, free_port
from tandem.cli.doctor.ports import probe_ports
from tandem.cli.fleet_commands import FleetFlags
from tandem.cli.ports import claimed_port, claimed_ports, require_free
from tandem.core.errors import ConfigError


@pytest.mark.skipif(sys.platform != "linux", reason="ONLY LINUX HAS THE NAMES THAT CLAIM PORTS")
def test_two_that_start_at_once_get_ports_of_their_own() -> None:
    base = free_port()
    with claimed_ports(HOST, base, 2, set()) as first:
        assert first == [base, base + 1]
        with claimed_ports(HOST, base, 2, {base + 2}) as second:
            assert second == [base + 3, base + 4]
    with claimed_ports(HOST, base, 2, set()) as again:
        assert again == first


@pytest.mark.skipif(sys.platform != "linux", reason="ONLY LINUX HAS THE NAMES THAT CLAIM PORTS")
def test_a_gateway_that_is_about_to_listen_has_its_port() -> None:
    port = free_port()
    with claimed_port(HOST, port, "--http-port"):
        with (
            pytest.raises(ConfigError, match=r"another tandem up .*: write another --http-port$"),
            claimed_port(HOST, port, "--http-port"),
        ):
            pass
        with claimed_ports(HOST, port, 1, set()) as of_workers:
            assert of_workers != [port]
        with claimed_port("127.0.0.2", port, "--http-port"):
            pass
    with claimed_port(HOST, port, "--http-port"):
        pass


@pytest.fixture
def unprivileged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def bind(self, address: Any) -> None:
            if address[1] < 1024:
                raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Unprivileged)


@pytest.mark.usefixtures("unprivileged")
def test_a_low_port_is_for_others() -> None:
    """It is not that somebody has it."""
    with pytest.raises(ConfigError) as refused:
        require_free(HOST, 80, "--http-port")
    assert refused.value.message == (
        "cannot listen on 127.0.0.1:80 (Permission denied): write another --http-port;"
        " ports below 1024 are for privileged processes"
    )
    port = probe_ports(FleetFlags(http_port=80).settings())["--http-port"]
    assert not port.is_free
    assert port.error == "80 cannot be used: ports below 1024 are for privileged processes"


def test_a_taken_port_is_doctors_business() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"in use.*`tandem doctor` says what has it$"):
            require_free(HOST, taken.getsockname()[1], "--http-port")


@pytest.mark.parametrize("base", [-5, 0, 70_000])
def test_workers_begin_at_a_port(base: int) -> None:
    with (
        pytest.raises(ConfigError, match=f"--port-base {base} is no port: write 1 to 65535"),
        claimed_ports(HOST, base, 1, set()),
    ):
        pass


def test_no_host_is_not_all_of_them() -> None:
    """Nor would anybody find the gateway that is to be there."""
    with pytest.raises(ConfigError, match=r"^'' is no address of this machine") as refused:
        require_free("", free_port(), "--http-port")
    assert refused.value.param == "host"
    assert probe_ports(FleetFlags(host="").settings())["--http-port"].is_elsewhere
