"""Tandem: split, with and without a target for the time per token, one worker on all cores, a
worker a core."""

from __future__ import annotations

from pathlib import Path

from peers.arm import Arm, name_of
from tandem.bench.arms import parse_arm

# By name: as `tandem bench goodput` has them.
SERVED = {
    "1p1d": "1p1d",
    "1p1d, 50 ms a token": "1p1d+tpot-target-ms=50",
    "colocated": "colocated",
    "colocated:2": "colocated:2",
}


def arms(environment: Path, model: Path, int4: bool) -> list[Arm]:
    """Those that are compared. Logs go below `environment`."""
    flags = ("--model", str(model), *(("--quantization", "int4") if int4 else ()))
    specs = {name: parse_arm(arm).spec(flags, environment) for name, arm in SERVED.items()}
    return [
        Arm(name_of(f"tandem {name}", int4), spec.command, spec.ready_path)
        for name, spec in specs.items()
    ]
