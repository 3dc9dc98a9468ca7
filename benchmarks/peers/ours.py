"""Tandem: split, one worker on all cores, a worker a core."""

from __future__ import annotations

import sys
from pathlib import Path

from peers.arm import Arm, name_of

TOPOLOGIES = ("1p1d", "colocated", "colocated:2")


def arms(environment: Path, model: Path, int4: bool) -> list[Arm]:
    """Those that are compared. Logs go below `environment`."""
    return [arm(topology, model, environment, int4) for topology in TOPOLOGIES]


def arm(topology: str, model: Path, logs: Path, int4: bool) -> Arm:
    """`tandem up` of this checkout; logs go to a folder in `logs`."""
    flags = ("--quantization", "int4") if int4 else ()
    command = (
        *(sys.executable, "-m", "tandem.cli", "up", "--topology", topology),
        *("--model", str(model), "--http-port", "{port}", "--grpc-port", "{port+1}"),
        *("--port-base", "{port+2}", "--log-dir", str(logs / topology), *flags),
    )
    return Arm(name_of(f"tandem {topology}", int4), command, ready_path="/ready")
