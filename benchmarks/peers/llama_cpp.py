"""llama.cpp's server, weights in bfloat16."""

from __future__ import annotations

import os
from pathlib import Path

from peers.arm import Arm, Conversion, NotInstalled, program

SLOTS = 16
SLOT_TOKENS = 2560


def arms(environment: Path, model: Path) -> list[Arm]:
    """One, with a slot for each stream of the widest workload. Raises `NotInstalled`."""
    weights = environment / f"{model.name}.gguf"
    command = (
        *(_server(environment), "--model", str(weights), "--threads", str(os.cpu_count())),
        *("--parallel", str(SLOTS), "--ctx-size", str(SLOTS * SLOT_TOKENS)),
        *("--host", "127.0.0.1", "--port", "{port}"),
    )
    return [
        Arm("llama.cpp", command, "/health", conversion=_conversion(environment, model, weights))
    ]


def _server(environment: Path) -> str:
    found = next(environment.rglob("llama-server"), None)
    if found is None:
        raise NotInstalled(f"there is no llama-server in {environment}")
    return str(found)


def _conversion(environment: Path, model: Path, weights: Path) -> Conversion:
    script = environment / "source" / "convert_hf_to_gguf.py"
    if not script.exists() and not weights.exists():
        raise NotInstalled(f"neither {weights} nor {script} is there")
    command = (program(environment, "python"), str(script), str(model))
    return Conversion((*command, "--outtype", "bf16", "--outfile", str(weights)), weights)
