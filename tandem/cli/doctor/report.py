"""The diagnosis, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tandem.cli.doctor.diagnosis import Diagnosis, verdict
from tandem.cli.doctor.findings import Finding, Level
from tandem.cli.doctor.machine import Machine
from tandem.cli.fleet import FleetSettings

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def print_diagnosis(console: Console, diagnosis: Diagnosis, settings: FleetSettings) -> None:
    """A line for each finding; below, what to do about those that need it."""
    table = Table.grid(padding=(0, 2))
    for column in ("mark", "subject"):
        table.add_column(column, no_wrap=True)
    table.add_column("text", overflow="fold")
    for finding in diagnosis.findings:
        table.add_row(
            Text(finding.level, STYLES[finding.level]), Text(finding.subject), _text(finding)
        )
    console.print(table)
    style = STYLES[Level.OK if diagnosis.would_start else Level.PROBLEM]
    console.print()
    console.print(Text(verdict(diagnosis, settings), style), soft_wrap=True)


def to_json(diagnosis: Diagnosis, machine: Machine, settings: FleetSettings) -> str:
    """Everything that was found, and what it means."""
    fleet = diagnosis.fleet
    return json.dumps(
        {
            "would_start": diagnosis.would_start,
            "verdict": verdict(diagnosis, settings),
            "findings": [asdict(each) for each in diagnosis.findings],
            "commands": {each.name: each.command for each in fleet.services} if fleet else {},
            "machine": asdict(machine),
        },
        indent=2,
    )


def _text(finding: Finding) -> Text:
    text = Text(finding.text)
    if finding.mend:
        text.append(f"\n-> {finding.mend}", "bold")
    return text
