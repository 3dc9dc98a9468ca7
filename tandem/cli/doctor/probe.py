"""Looks at this machine. Thin: what it means is judged elsewhere."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import psutil

from tandem.artifacts.cache import cache_dir
from tandem.cli.doctor.accelerators import probe_compiler, probe_driver, probe_torch
from tandem.cli.doctor.child import Answer, ask
from tandem.cli.doctor.machine import Cpu, Docker, Machine, Memory, Python
from tandem.cli.doctor.ports import probe_ports, probe_worker_ports
from tandem.cli.doctor.services import probe_services
from tandem.cli.doctor.storage import probe_folder, probe_model
from tandem.cli.fleet import FleetSettings
from tandem.process.cores import usable_cores
from tandem.process.host import allowed_open_files, cpu_quota, memory_bytes

DOCKER_TIMEOUT_S = 5.0
CPU_INFO = Path("/proc/cpuinfo")


def probe_machine(settings: FleetSettings, logs: Path | None) -> Machine:
    """What is here, as far as it matters for `settings` and for logs in `logs`. Takes the seconds
    that torch and the services take to import, in processes of their own; changes nothing."""
    with ThreadPoolExecutor() as pool:
        torch = pool.submit(probe_torch)
        driver = pool.submit(probe_driver)
        docker = pool.submit(_docker)
        refusals = pool.submit(probe_services, settings)
        return Machine(
            python=Python(sys.version_info[:3], sys.executable, find_spec("pip") is not None),
            compiler=probe_compiler(),
            cpu=_cpu(),
            memory=_memory(),
            model=probe_model(settings.model),
            cache=probe_folder(cache_dir()),
            logs=probe_folder(logs) if logs else None,
            ports=probe_ports(settings),
            worker_ports=probe_worker_ports(settings),
            open_files=allowed_open_files(),
            torch=torch.result(),
            driver=driver.result(),
            docker=docker.result(),
            refusals=refusals.result(),
        )


def _cpu() -> Cpu:
    return Cpu(
        model=_cpu_model(),
        num_installed=psutil.cpu_count() or 1,
        cores=tuple(usable_cores()),
        quota=cpu_quota(),
    )


def _cpu_model() -> str:
    """Its name; empty where the system does not give one (ARM often does not)."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return ""
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "")


def _memory() -> Memory:
    found = psutil.virtual_memory()
    usable = memory_bytes()
    return Memory(found.total, usable, min(found.available, usable))


def _docker() -> Docker:
    daemon = ask(["docker", "version", "--format", "{{.Server.Version}}"], DOCKER_TIMEOUT_S)
    if daemon is None:
        return Docker()
    client = ask(["docker", "version", "--format", "{{.Client.Version}}"], DOCKER_TIMEOUT_S)
    return Docker(
        version=client.text if client else "",
        compose=_compose_version(),
        daemon_error=daemon.failure,
    )


def _compose_version() -> str:
    """Of the plugin, else of the older program of its own, which is told apart by its name. Empty
    if neither is here; of one that is late, that it is."""
    late = ""
    for command in ("docker compose", "docker-compose"):
        match ask([*command.split(), "version", "--short"], DOCKER_TIMEOUT_S):
            case Answer(text, failure="") if text:
                return text if command == "docker compose" else f"{text} ({command})"
            case Answer(failure=failure) as answer if answer.is_late:
                late = late or f"({failure})"
    return late
