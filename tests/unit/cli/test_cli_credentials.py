"""`tandem keys` and `tandem certs`, and what `tandem up` says of keys."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_machine import settings
from rich.console import Console
from typer.testing import CliRunner

from tandem.cli.app import commands
from tandem.cli.fleet import FleetSettings, plan_fleet
from tandem.cli.reaching import reaching_gateway
from tandem.cli.welcome import welcome
from tandem.core.errors import Unauthenticated, Unavailable
from tandem.process.api_keys import ApiKeys, read_api_keys
from tandem.process.identity import read_identity
from tandem.wire.tls import Role

SETTINGS = settings(topology="colocated", model="mock", device="mock:zero")


def run(*arguments: str, **environment: str) -> str:
    ran = CliRunner().invoke(commands, arguments, env=environment, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def test_keys_prints_a_key_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = run("keys", "team-a", "--api-keys", str(path)).strip()
    default = run("keys", TANDEM_API_KEYS=str(path)).strip()
    keys = ApiKeys(read_api_keys(path))
    assert (keys.tenant_of(key), keys.tenant_of(default)) == ("team-a", "default")


def test_certs_makes_all_identities(tmp_path: Path) -> None:
    assert "certificates until" in run("certs", "--tls-dir", str(tmp_path), "--days", "40")
    for role in Role:
        assert read_identity(tmp_path, role)


@pytest.mark.parametrize("days", ["0", "99999999"])
def test_certificates_hold_for_days_that_there_are(tmp_path: Path, days: str) -> None:
    ran = CliRunner().invoke(commands, ["certs", "--tls-dir", str(tmp_path), "--days", days])
    assert ran.exit_code == 2
    assert not [*tmp_path.iterdir()]


def test_who_is_asked_for_a_key_is_told_where_it_goes() -> None:
    with pytest.raises(Unauthenticated, match="TANDEM_API_KEY"), reaching_gateway():
        raise Unauthenticated("an API key is needed")


def test_who_reaches_nobody_is_told_of_which_port_an_address_is() -> None:
    with pytest.raises(Unavailable, match="HOST:PORT, its gRPC port"), reaching_gateway():
        raise Unavailable("nobody speaks HTTP/2 there")


@pytest.mark.parametrize(
    ("settings", "says_key", "warns"),
    [
        (SETTINGS, False, False),
        (replace(SETTINGS, host="0.0.0.0"), False, True),
        (replace(SETTINGS, host="0.0.0.0", api_key="secret"), True, False),
        (replace(SETTINGS, gateway_options={"api-keys": "keys.toml"}), True, False),
    ],
)
def test_the_welcome_says_what_a_client_needs(
    settings: FleetSettings, says_key: bool, warns: bool
) -> None:
    output = io.StringIO()
    fleet = plan_fleet(settings, [50051], [0])
    welcome(Console(file=output, width=200), settings, fleet, "mock", None, can_chat=True)
    said = output.getvalue()
    assert ("Authorization: Bearer $TANDEM_API_KEY" in said) is says_key
    assert ("no API keys" in said) is warns
    assert "secret" not in said
