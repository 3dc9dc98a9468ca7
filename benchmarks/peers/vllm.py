"""vLLM's CPU build."""

from __future__ import annotations

import os
from pathlib import Path

from peers.arm import Arm, NotInstalled, program

MODEL = "default"
KV_GIB = "2"
START_S = 300.0  # it compiles the model
# Its own advice for CPUs: the allocator and the OpenMP runtime must be loaded before all else.
PRELOADED = ("libtcmalloc_minimal.so.4", "libiomp5.so")
LIBRARY_FOLDERS = (Path("/usr/lib"), Path("/usr/local/lib"))


def arms(environment: Path, model: Path, int4: bool) -> list[Arm]:
    """As shipped, where it keeps one core for its own servers, and computing on all of them.

    Raises `NotInstalled`.
    """
    if int4:
        raise NotInstalled("its CPU build takes no weights that are quantised on loading")
    command = (
        *(program(environment, "vllm"), "serve", str(model), "--served-model-name", MODEL),
        *("--dtype", "bfloat16", "--max-model-len", "8192"),
        *("--host", "127.0.0.1", "--port", "{port}"),
    )
    libraries = (_library(environment, name) for name in PRELOADED)
    env = {
        "VLLM_CPU_KVCACHE_SPACE": KV_GIB,
        "LD_PRELOAD": os.pathsep.join(map(str, libraries)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    all_cores = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}"}
    return [
        Arm("vllm", command, "/health", MODEL, env, start_timeout_s=START_S),
        Arm("vllm all cores", command, "/health", MODEL, env | all_cores, start_timeout_s=START_S),
    ]


def _library(environment: Path, name: str) -> Path:
    for folder in (environment, *LIBRARY_FOLDERS):
        if found := next(folder.rglob(name), None):
            return found
    raise NotInstalled(f"{name} is missing")
