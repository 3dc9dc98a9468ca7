"""`tandem doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from tandem.cli.doctor.diagnosis import diagnose
from tandem.cli.doctor.probe import probe_machine
from tandem.cli.doctor.report import print_diagnosis, to_json
from tandem.cli.fleet import FleetSettings
from tandem.cli.tables import table_console


def run_doctor(settings: FleetSettings, logs: Path | None, *, as_json: bool) -> None:
    """Print the diagnosis. `logs` None: they would go to the terminal. Exits with status 1 if
    something stops `tandem up`."""
    with Console(stderr=True).status("looking around"):
        machine = probe_machine(settings, logs)
    diagnosis = diagnose(machine, settings)
    if as_json:
        print(to_json(diagnosis, machine, settings))
    else:
        print_diagnosis(table_console(), diagnosis, settings)
    if not diagnosis.would_start:
        sys.exit(1)
