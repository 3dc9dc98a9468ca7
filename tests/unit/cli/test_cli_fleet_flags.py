"""The flags of `tandem up` and `tandem doctor`, and where they go."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from tandem.cli.app import commands
from tandem.cli.fleet import FleetSettings
from tandem.cli.fleet_commands import GATEWAY, GATEWAY_OPTIONS, WORKER_OPTIONS, WORKERS, FleetFlags


def in_panel(panel: str) -> set[str]:
    hints = get_type_hints(FleetFlags, include_extras=True)
    return {
        each.name
        for each in fields(FleetFlags)
        if hints[each.name].__metadata__[0].rich_help_panel == panel
    }


def test_each_flag_of_a_service_is_passed_on_to_it() -> None:
    assert in_panel(WORKERS) <= set(WORKER_OPTIONS)
    # The key goes by the environment, where no list of processes shows it.
    assert in_panel(GATEWAY) - {"api_key"} <= set(GATEWAY_OPTIONS)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[FleetSettings]:
    """What `tandem doctor` is asked about."""
    found: list[FleetSettings] = []
    monkeypatch.setattr(
        "tandem.cli.doctor.doctor.run_doctor", lambda settings, *_, **__: found.append(settings)
    )
    return found


def test_doctor_takes_all_flags_of_up(asked: list[FleetSettings], tmp_path: Path) -> None:
    tenants = tmp_path / "tenants.toml"
    tenants.touch()
    flags = ["--policy", "edf", "--tenants", str(tenants), "--max-num-seqs", "9", "--json"]
    result = CliRunner().invoke(commands, ["doctor", *flags])
    assert result.exit_code == 0, result.output
    (settings,) = asked
    assert settings.gateway_options["policy"] == "edf"
    assert settings.gateway_options["tenants"] == str(tenants)
    assert settings.worker_options["max-num-seqs"] == 9


@pytest.mark.parametrize("flag", ["--tenants", "--api-keys", "--tls-dir"])
def test_a_file_that_is_not_there_is_refused(asked: list[FleetSettings], flag: str) -> None:
    result = CliRunner().invoke(commands, ["doctor", flag, "nowhere"])
    assert result.exit_code == 2
    assert "does not exist" in result.output
    assert not asked
