"""Tandem: split, with and without a target for the time per token, one worker on all cores, a
worker a core."""

from __future__ import annotations

import sys
from pathlib import Path

from peers.arm import Arm, name_of

# By name: a topology, and other flags.
SERVED = {
    "1p1d": ("1p1d",),
    "1p1d, 50 ms a token": ("1p1d", "--tpot-target-ms", "50"),
    "colocated": ("colocated",),
    "colocated:2": ("colocated:2",),
}


def arms(environment: Path, model: Path, int4: bool) -> list[Arm]:
    """Those that are compared. Logs go below `environment`."""
    return [arm(name, model, environment, int4) for name in SERVED]


def arm(name: str, model: Path, logs: Path, int4: bool) -> Arm:
    """`tandem up` of this checkout; logs go to a folder in `logs`."""
    flags = ("--quantization", "int4") if int4 else ()
    command = (
        *(sys.executable, "-m", "tandem.cli", "up", "--topology", *SERVED[name]),
        *("--model", str(model), "--http-port", "{port}", "--grpc-port", "{port+1}"),
        *("--port-base", "{port+2}", "--log-dir", str(logs / name), *flags),
    )
    return Arm(name_of(f"tandem {name}", int4), command, ready_path="/ready")
