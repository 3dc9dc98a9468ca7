"""Where a worker says that other workers reach it."""

from __future__ import annotations

import socket

import pytest

from tandem.core.errors import ConfigError
from tandem.worker.settings import WorkerSettings


def advertised(monkeypatch: pytest.MonkeyPatch, own: list[str], **settings: str) -> str:
    """With `own` as the addresses of this machine's name."""
    found = [(0, 0, 0, "", (host, 0)) for host in own]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    return WorkerSettings(port=50052, **settings).advertised_address


def test_an_address_of_its_own_is_left_to_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    assert advertised(monkeypatch, ["10.0.0.7"], host="127.0.0.1") == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (["10.0.0.7"], "10.0.0.7:50052"),
        (["fd00::7"], "[fd00::7]:50052"),
        (["fd00::7", "10.0.0.7"], "10.0.0.7:50052"),
        (["127.0.1.1", "10.0.0.7"], "10.0.0.7:50052"),
        (["127.0.1.1", "fe80::1"], ""),
        ([], ""),
    ],
)
def test_a_wildcard_stands_for_this_machines_address(
    monkeypatch: pytest.MonkeyPatch, host: str, own: list[str], expected: str
) -> None:
    assert advertised(monkeypatch, own, host=host) == expected


def test_what_the_operator_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert advertised(monkeypatch, ["10.0.0.7"], host="0.0.0.0", advertise="gpu7:1") == "gpu7:1"
    with pytest.raises(ConfigError, match="host:port") as caught:
        advertised(monkeypatch, [], advertise="gpu7")
    assert caught.value.param == "advertise"


def test_a_machine_whose_name_nobody_knows_advertises_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "no name server")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert WorkerSettings(port=1, host="0.0.0.0").advertised_address == ""


def test_addresses_to_listen_on_are_written_as_grpc_reads_them() -> None:
    assert WorkerSettings(port=1, host="::").address == "[::]:1"
