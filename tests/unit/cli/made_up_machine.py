"""A machine that is made up, and the doctor's look at it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tandem.cli.doctor.diagnosis import Diagnosis, diagnose
from tandem.cli.doctor.findings import Finding
from tandem.cli.doctor.machine import (
    Compiler,
    Cpu,
    Docker,
    Driver,
    Folder,
    Gpu,
    Machine,
    Memory,
    Port,
    Python,
    Torch,
)
from tandem.cli.doctor.storage import DEFAULT_MODEL
from tandem.cli.fleet import FleetSettings
from tandem.core.topology import parse_topology

GB = 10**9
CPU_BUILD = Torch("2.13.0+cpu", None, (), "", "float32", "AVX2", "kernels 1234 avx2", "")
CUDA_BUILD = replace(CPU_BUILD, version="2.13.0", cuda="13.0")
GPU = Gpu("NVIDIA L4", 24 * GB, 23 * GB)
DRIVER = Driver("580.65", (GPU,))
HERE = replace(DEFAULT_MODEL, download_bytes=0, import_bytes=0)
CACHE = Folder("/home/me/.cache/tandem", "/home/me/.cache", is_writable=True, free_bytes=50 * GB)
MACHINE = Machine(
    python=Python((3, 12, 1), "/venv/bin/python"),
    torch=CPU_BUILD,
    driver=None,
    compiler=Compiler("/usr/bin/gcc", "/usr/include/python3.12", has_headers=True),
    cpu=Cpu("Some CPU", 4, (0, 1, 2, 3), None),
    memory=Memory(16 * GB, 16 * GB, 14 * GB),
    model=HERE,
    cache=CACHE,
    logs=CACHE,
    ports={"--http-port": Port(8000, True), "--grpc-port": Port(50050, True)},
    worker_ports=(50051, 50052),
    open_files=1024,
    docker=Docker("28.0", "2.40"),
    refusals=(),
)


def settings(
    *, topology: str = "1p1d", device: str = "cpu", model: str = "default", **options: Any
) -> FleetSettings:
    return FleetSettings(
        topology=parse_topology(topology),
        model=model,
        device=device,
        host="127.0.0.1",
        http_port=8000,
        grpc_port=50050,
        port_base=50051,
        worker_options={name.replace("_", "-"): value for name, value in options.items()},
    )


def look(flags: FleetSettings | None = None, **differences: Any) -> Diagnosis:
    return diagnose(replace(MACHINE, **differences), flags or settings())


def about(diagnosis: Diagnosis, subject: str) -> Finding:
    (finding,) = [each for each in diagnosis.findings if each.subject == subject]
    return finding
