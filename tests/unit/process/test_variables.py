"""What is set in the environment, and read by nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from structlog.testing import capture_logs

from decode_service.service import DecodeSettings
from gateway.settings import GatewaySettings
from prefill_service.service import PrefillSettings
from tandem.cli.app import commands
from tandem.process.variables import FLAGS, OTHERS, unknown, warn_of_unknown

ROOT = Path(__file__).parents[3]


def twins_of(command: Any) -> Iterator[str]:
    for each in getattr(command, "commands", {}).values():
        yield from twins_of(each)
    for parameter in command.params:
        if isinstance(parameter.envvar, str):
            yield parameter.envvar.removeprefix("TANDEM_").lower()


def test_all_flags_twins_are_known_and_no_others() -> None:
    services = (GatewaySettings, PrefillSettings, DecodeSettings)
    settings = {name for each in services for name in each.model_fields}
    assert settings | {*twins_of(typer.main.get_command(commands))} == FLAGS


def test_what_the_pages_and_the_compose_files_name_is_known() -> None:
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docker-compose*.yml")]
    named = {
        name for path in files for name in re.findall(r"\bTANDEM_[A-Z_]*[A-Z]", path.read_text())
    }
    assert len(named) > 50
    assert unknown(dict.fromkeys(named - {"TANDEM_SOME_FLAG"}, "")) == {}
    assert not FLAGS & OTHERS


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TANDEM_POLCY", "TANDEM_POLICY"),
        ("TANDEM_TPOT_TARGET", "TANDEM_TPOT_TARGET_MS"),
        ("tandem_apikeys", "TANDEM_API_KEYS"),
        ("TANDEM_BANANA", ""),
        ("TANDEM_GPU", ""),
        ("TANDEM_SEED", ""),
    ],
)
def test_a_misspelt_one_is_told_of_with_what_may_have_been_meant(
    name: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unknown({name: "1", "TANDEM_POLICY": "edf", "tandem_host": "::", "PATH": ""}) == {
        name: nearest
    }
    monkeypatch.setenv(name, "1")
    with capture_logs() as logs:
        warn_of_unknown()
    assert [entry["nearest"] for entry in logs if entry["name"] == name] == [nearest or "none"]
