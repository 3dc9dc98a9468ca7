"""A server as a process: started, waited for, weighed, ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import psutil

from tandem.bench.ports import HOST, free_port
from tandem.process.http_probe import answers
from tandem.process.lifetime import END_WITH_PARENT
from tandem.process.stop_signals import heeded_signals

START_TIMEOUT_S = 60
STOP_S = 20.0
POLL_S = 0.02
LOG_TAIL = 2000


class CannotStart(Exception):
    """A server is not ready; the message has the end of its log."""


@dataclass(frozen=True)
class ServerSpec:
    """A server's command, in which `{port}` is its port, and `{port+1}` another one. `model`: as
    requests call it. It serves once a GET of `ready_path` is answered by 200."""

    name: str
    command: tuple[str, ...]
    ready_path: str = ""
    model: str = "default"
    env: Mapping[str, str] = field(default_factory=dict)
    start_timeout_s: float = START_TIMEOUT_S


@dataclass(frozen=True)
class Server:
    """One that is ready. `start_s`: from its command to there."""

    spec: ServerSpec
    port: int
    pid: int
    start_s: float

    def pss_bytes(self) -> int:
        """Memory of all its processes; what several share is counted once."""
        own = psutil.Process(self.pid)
        return sum(each.memory_full_info().pss for each in (own, *own.children(recursive=True)))


@asynccontextmanager
async def running(spec: ServerSpec, logs: Path) -> AsyncIterator[Server]:
    """Start it, wait until it is ready, end all its processes. Raises `CannotStart`."""
    port = free_port()
    log = logs / f"{spec.name.replace(' ', '-')}.log"
    start = perf_counter()
    process = _spawn(spec, port, log)
    try:
        await _until_ready(spec, port, process, log)
        yield Server(spec, port, process.pid, perf_counter() - start)
    finally:
        await _end(process)


def cancel_when_told_to_stop() -> None:
    """Let signals to stop cancel the task that calls this, so that servers end with it."""
    task = asyncio.current_task()
    assert task is not None
    for number in heeded_signals():
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _spawn(spec: ServerSpec, port: int, log: Path) -> subprocess.Popen[bytes]:
    # A group of its own, to end it as a whole; in our session, as priorities may go by sessions.
    # What is ours ends with us, even if we are killed: it would go on serving, and be measured by
    # nobody but beside whatever is measured next.
    with log.open("wb") as output:
        return subprocess.Popen(
            with_port(spec.command, port),
            stdout=output,
            stderr=output,
            env={**os.environ, **spec.env, END_WITH_PARENT: str(os.getpid())},
            process_group=0,
        )


def with_port(command: Sequence[str], port: int) -> list[str]:
    """`{port}` and `{port+2}` in a command become numbers."""
    return [
        re.sub(r"\{port(?:\+(\d+))?\}", lambda match: str(port + int(match[1] or 0)), each)
        for each in command
    ]


async def _until_ready(
    spec: ServerSpec, port: int, process: subprocess.Popen[bytes], log: Path
) -> None:
    try:
        async with asyncio.timeout(spec.start_timeout_s):
            while not await answers(HOST, port, spec.ready_path):
                if process.poll() is not None:
                    raise CannotStart(f"{spec.name} ended: {_tail(log)}")
                await asyncio.sleep(POLL_S)
    except TimeoutError as error:
        raise CannotStart(
            f"{spec.name} is not ready after {spec.start_timeout_s:.0f} s: {_tail(log)}"
        ) from error


def _tail(log: Path) -> str:
    return log.read_bytes()[-LOG_TAIL:].decode(errors="replace")


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, then force; force at once if we are told to stop once more."""
    try:
        await _signal(process, signal.SIGINT)
    finally:
        await _signal(process, signal.SIGKILL)


async def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To its whole group of processes. Waits for its end, but not for long."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, number)
        await asyncio.to_thread(process.wait, STOP_S)
