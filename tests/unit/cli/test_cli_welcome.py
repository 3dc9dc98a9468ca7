"""What `tandem up` prints can be pasted, wherever the gateway listens."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tandem.cli.fleet import FleetSettings, plan_fleet
from tandem.cli.welcome import welcome
from tandem.core.topology import parse_topology


def printed(host: str, http_port: int = 8000, grpc_port: int = 50050, can_chat: bool = True) -> str:
    settings = FleetSettings(
        parse_topology("1p1d"), "mock", "mock:h100", host, http_port, grpc_port, 50051
    )
    fleet = plan_fleet(settings, [50051, 50052], [0])
    console = Console(file=StringIO(), width=200)
    welcome(console, settings, fleet, "mock", None, can_chat=can_chat)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_usual_addresses_need_no_flags(host: str) -> None:
    said = printed(host)
    assert "http://127.0.0.1:8000/v1" in said
    assert "--address" not in said
    assert "--url" not in said


@pytest.mark.parametrize(
    ("host", "ports", "http", "grpc"),
    [
        ("127.0.0.1", (8001, 50060), "127.0.0.1:8001", "127.0.0.1:50060"),
        ("192.168.1.5", (8000, 50050), "192.168.1.5:8000", "192.168.1.5:50050"),
        ("::1", (8000, 50050), "[::1]:8000", "[::1]:50050"),
        ("::", (8000, 50050), "[::1]:8000", "[::1]:50050"),
    ],
)
def test_all_others_are_named(host: str, ports: tuple[int, int], http: str, grpc: str) -> None:
    said = printed(host, *ports)
    assert f"curl http://{http}/v1/chat/completions" in said
    assert f"chat --address {grpc}\n" in said
    assert f"top --url http://{http}\n" in said


def test_a_model_without_a_chat_template_is_given_a_prompt() -> None:
    said = printed("127.0.0.1", can_chat=False)
    assert "/v1/completions -H" in said
    assert '"prompt": ' in said
    assert "chat" not in said


def test_a_narrow_terminal_and_an_odd_name_lose_nothing() -> None:
    settings = FleetSettings(
        parse_topology("1p1d"), "mock", "mock:h100", "127.0.0.1", 8000, 50050, 50051
    )
    console = Console(file=StringIO(), width=40)
    logs = Path("/home/somebody/of/a/long/name/.cache/tandem/logs/8000")
    fleet = plan_fleet(settings, [50051, 50052], [0])
    welcome(console, settings, fleet, "model-[v2]", logs, can_chat=True)
    assert isinstance(console.file, StringIO)
    panel, *_ = console.file.getvalue().partition("curl")
    said = "".join(line.strip("\u2502 ") for line in panel.splitlines())
    assert str(logs) in said
    assert "model-[v2]" in said
    assert "\u2026" not in said
