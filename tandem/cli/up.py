"""`tandem up`: check what can be checked, start everything, say when it serves."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from tandem.artifacts.cache import cache_dir
from tandem.artifacts.config import ModelConfig
from tandem.artifacts.model_folder import ModelFolder
from tandem.artifacts.progress import terminal_progress
from tandem.artifacts.resolve import resolve
from tandem.cli.fleet import WORKER_HOST, Fleet, FleetSettings, plan_fleet
from tandem.cli.ports import claimed_port, claimed_ports, require_different
from tandem.cli.readiness import until_ready
from tandem.cli.supervisor import Supervisor
from tandem.cli.welcome import welcome
from tandem.core.address import local_host
from tandem.core.device import CpuDevice, MockDevice, parse_device
from tandem.core.errors import ConfigError
from tandem.core.installation import install_tandem
from tandem.core.numbers import require_positive
from tandem.engine.fake.profiles import parse_profile
from tandem.models.kernels import kernels_of
from tandem.native.library import KernelsMissing, faster_than
from tandem.process.cores import usable_cores
from tandem.process.lifetime import end_with_parent
from tandem.process.settings import DRAIN_TIMEOUT_S
from tandem.process.stop_signals import heeded_signals
from tandem.process.variables import unknown

USUAL_HOST = "127.0.0.1"


class LastingConsole(Console):
    """For what goes on when its terminal is gone, its disk is full, or nobody reads its pipe: what
    cannot be said is not."""

    def print(self, *objects: Any, **options: Any) -> None:
        with suppress(OSError):
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        pass


def run_up(
    settings: FleetSettings,
    *,
    log_dir: Path | None,
    verbose: bool,
    start_timeout_s: float,
    drain_timeout_s: float | None = None,
) -> None:
    """Run the fleet until a signal ends it; SIGTERM lets requests under way finish before. So ends
    whoever started it for as long as itself lasts. Raises `TandemError`."""
    end_with_parent()
    console = LastingConsole(stderr=True, highlight=False)
    require_positive("start-timeout", start_timeout_s)
    for name, nearest in unknown(os.environ).items():
        console.print(
            f"nothing reads {name}" + (f": was {nearest} meant?" if nearest else ""), style="yellow"
        )
    _check_device(settings.device)
    with _planned(settings) as fleet:
        folder = _resolve_model(settings)
        if isinstance(parse_device(settings.device), CpuDevice) and (
            line := slow_path(folder.config)
        ):
            console.print(f"[bold yellow]{escape(line)}[/]", soft_wrap=True)
        logs = None if verbose else _new_logs(log_dir or default_logs(settings), fleet)
        supervisor = Supervisor(
            fleet,
            logs,
            lambda text: console.print(f"[bold red]{escape(text)}[/]", soft_wrap=True),
            DRAIN_TIMEOUT_S if drain_timeout_s is None else drain_timeout_s,
        )
        if line := fleet.core_line():
            console.print(f"[dim]cores: {line}[/]")

        def on_ready() -> None:
            welcome(console, settings, fleet, folder.name, logs, can_chat=folder.has_chat_template)

        async def ready() -> None:
            with _starting(fleet, console):
                await until_ready(local_host(settings.host), settings.http_port, start_timeout_s)

        serving = supervisor.run(ready(), on_ready)
        asyncio.run(_until_signal(serving, supervisor, console))
    console.print("bye")


@contextmanager
def _starting(fleet: Fleet, console: Console) -> Iterator[None]:
    """Say so, within the block."""
    status = console.status(f"starting {len(fleet.services)} processes", spinner="dots")
    # As `LastingConsole` has it, by which a status does not go.
    with suppress(OSError):
        status.start()
    try:
        yield
    finally:
        with suppress(OSError):
            status.stop()


async def _until_signal(
    serving: Coroutine[Any, Any, None], supervisor: Supervisor, console: Console
) -> None:
    """Run `serving` to its end, which the first signal asks for and the second one forces."""
    task = asyncio.create_task(serving)
    signals = 0

    def on_signal(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            supervisor.kill()
            return
        console.print("stopping; once more to stop at once")
        if not supervisor.is_stopping:
            supervisor.drains = number == signal.SIGTERM
            task.cancel()

    for number in heeded_signals():
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _check_device(text: str) -> None:
    device = parse_device(text)
    if isinstance(device, MockDevice):
        parse_profile(device.profile)
    elif find_spec("torch") is None:
        raise ConfigError(f"device {text} needs torch: {install_tandem(extra='torch')}")


@contextmanager
def _planned(settings: FleetSettings) -> Iterator[Fleet]:
    """The fleet, whose ports are its own within the block."""
    gateway_ports = {"--http-port": settings.http_port, "--grpc-port": settings.grpc_port}
    require_different(gateway_ports)
    with ExitStack() as claims:
        for flag, port in gateway_ports.items():
            claims.enter_context(claimed_port(settings.host, port, flag))
        taken = {*gateway_ports.values()}
        count = settings.topology.num_workers
        ports = claims.enter_context(claimed_ports(WORKER_HOST, settings.port_base, count, taken))
        yield plan_fleet(settings, ports, usable_cores())


def slow_path(config: ModelConfig) -> str:
    """Why this processor computes a model slower than it could, and without kernels what mends
    that; "" if it does not. Raises `ConfigError` as `kernels_of` does."""
    try:
        kernels = kernels_of(config)
    except KernelsMissing as missing:
        return f"computed by torch's own operations, several times slower: {missing}"
    faster = faster_than(kernels)
    return f"computed by {kernels}, slower than those of {faster[-1]}" if faster else ""


def _resolve_model(settings: FleetSettings) -> ModelFolder:
    """The model, once it is on this machine."""
    with terminal_progress(settings.model) as progress:
        folder = resolve(settings.model, progress)
    if not folder.weight_files and not isinstance(parse_device(settings.device), MockDevice):
        raise ConfigError(
            f"model {settings.model!r} has no weights: it needs a mock device, like mock:h100"
        )
    return folder


def default_logs(settings: FleetSettings) -> Path:
    """Where logs go if the user does not say."""
    # One folder an address, so that two at a time do not write to the same files, and old ones go.
    port = str(settings.http_port)
    name = port if settings.host == USUAL_HOST else f"{settings.host}-{port}"
    return cache_dir() / "logs" / name


def _new_logs(folder: Path, fleet: Fleet) -> Path:
    """Empty ones; those of the run before are kept beside them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for service in fleet.services:
            log = folder / f"{service.name}.log"
            if log.exists():
                log.replace(folder / f"{service.name}.log.1")
            log.touch()
    except OSError as error:
        raise ConfigError(
            f"cannot write logs to {folder} ({error.strerror}): see --log-dir and --verbose"
        ) from error
    return folder
