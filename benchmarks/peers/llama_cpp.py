"""llama.cpp's server, weights in bfloat16 or its own groups of 4 bits."""

from __future__ import annotations

import os
from pathlib import Path

from peers.arm import Arm, Conversion, NotInstalled, name_of, program

SLOTS = 16
SLOT_TOKENS = 2560


def arms(environment: Path, model: Path, int4: bool) -> list[Arm]:
    """One, with a slot for each stream of the widest workload. Raises `NotInstalled`."""
    plain = environment / f"{model.name}.gguf"
    weights = environment / f"{model.name}-q4_0.gguf" if int4 else plain
    conversions = [_conversion(environment, model, plain)]
    if int4:
        quantize = (_binary(environment, "llama-quantize"), str(plain), str(weights), "Q4_0")
        conversions.append(Conversion(quantize, weights))
    command = (
        *(_binary(environment, "llama-server"), "--model", str(weights)),
        *("--threads", str(os.cpu_count())),
        *("--parallel", str(SLOTS), "--ctx-size", str(SLOTS * SLOT_TOKENS)),
        *("--host", "127.0.0.1", "--port", "{port}"),
    )
    return [Arm(name_of("llama.cpp", int4), command, "/health", conversions=tuple(conversions))]


def _binary(environment: Path, name: str) -> str:
    found = next(environment.rglob(name), None)
    if found is None:
        raise NotInstalled(f"there is no {name} in {environment}")
    return str(found)


def _conversion(environment: Path, model: Path, weights: Path) -> Conversion:
    script = environment / "source" / "convert_hf_to_gguf.py"
    if not script.exists() and not weights.exists():
        raise NotInstalled(f"neither {weights} nor {script} is there")
    command = (program(environment, "python"), str(script), str(model))
    return Conversion((*command, "--outtype", "bf16", "--outfile", str(weights)), weights)
