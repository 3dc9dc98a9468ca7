"""Asks the services what they have to say against their flags."""

from __future__ import annotations

import json
from dataclasses import replace

from tandem.cli.doctor.child import ask
from tandem.cli.fleet import PYTHON, FleetSettings, plan_fleet
from tandem.core.device import CpuDevice, parse_device
from tandem.core.errors import ConfigError

PREFLIGHT = (*PYTHON, "tandem.preflight")
TIMEOUT_S = 60.0


def probe_services(settings: FleetSettings) -> tuple[str, ...]:
    """What they refuse, in a process of its own: a line each, none if they take their flags."""
    # Cores and ports are judged elsewhere: these stand for them.
    settings = replace(settings, device=_kind(settings.device), http_port=1, grpc_port=2)
    fleet = plan_fleet(settings, range(3, 3 + settings.topology.num_workers), [0])
    commands = json.dumps([each.command[len(PYTHON) :] for each in fleet.services])
    answer = ask([*PREFLIGHT, commands], TIMEOUT_S, fleet.gateway.environment)
    if answer is None or not answer.failure:
        return ()
    return tuple(answer.text.splitlines()) or (f"cannot be checked: {answer.failure}",)


def _kind(device: str) -> str:
    """A device of this kind, whichever cores are here; `cpu` for what is none."""
    try:
        return "cpu" if isinstance(parse_device(device), CpuDevice) else device
    except ConfigError:
        return "cpu"
