"""Tandem: split, one worker on all cores, a worker a core."""

from __future__ import annotations

import sys
from pathlib import Path

from peers.arm import Arm

TOPOLOGIES = ("1p1d", "colocated", "colocated:2")


def arms(environment: Path, model: Path) -> list[Arm]:
    """Those that this checkout serves."""
    return [
        Arm(
            f"tandem {topology}",
            (
                *(sys.executable, "-m", "tandem.cli", "up", "--topology", topology),
                *("--model", str(model), "--http-port", "{port}", "--grpc-port", "{port+1}"),
                *("--port-base", "{port+2}", "--log-dir", str(environment / topology)),
            ),
            ready_path="/ready",
        )
        for topology in TOPOLOGIES
    ]
