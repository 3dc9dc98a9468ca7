"""Services as processes of their own. In tests they are forked from one that has imported them.

Starting Python and importing anew for each of hundreds of services was most of the time that the
tests took. What is lost by it: they all hash strings alike, and end without Python's own end. So
some tests have services as anybody's are: those of `tandem up`, and `test_services.py`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import runpy
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from tandem.process.lifetime import END_WITH_PARENT

PRELOADED = [
    "decode_service.service",
    "gateway.service",
    "prefill_service.service",
    "tandem.engine.torch.engine",
    "uvloop",
]
# Benchmarks leave it: their figures are of services as they are.
are_forked = False


def fork_services() -> None:
    """From now on, in this process. The process that they are forked from begins with the first, or
    when it is started."""
    global are_forked  # noqa: PLW0603 - a process has one such server
    multiprocessing.set_forkserver_preload(PRELOADED)
    are_forked = True


def start_fork_server() -> None:
    """Returns when it has imported all that services need."""
    forked = multiprocessing.get_context("forkserver").Process(target=int)
    forked.start()
    forked.join()


async def start_service(
    module: str,
    flags: Sequence[str],
    log: Path | None = None,
    *,
    command: Sequence[str] = (),
    with_parent: bool = False,
) -> Process | ForkedService:
    """`python -m module flags`. What it writes goes to the end of `log`, if there is one; `command`
    is what runs it, as in another network namespace. `with_parent`: as a supervisor starts it, that
    is, it ends with this process."""
    if are_forked and not command:
        return ForkedService(module, flags, log, with_parent)
    environment = {END_WITH_PARENT: str(os.getpid())} if with_parent else {}
    with ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else None
        return await asyncio.create_subprocess_exec(
            *(*command, sys.executable, "-m", module, *flags),
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )


class Service(Protocol):
    """Whatever has started one. `log` is where it writes; None: where this process does."""

    log: Path | None
    process: Process | ForkedService | None


async def while_running(awaited: Awaitable[None], *services: Service) -> None:
    """Wait for what takes all of these services. Fails as soon as one of them has ended."""
    ends = {asyncio.create_task(each.process.wait()): each for each in services if each.process}
    waiting = asyncio.ensure_future(awaited)
    try:
        await asyncio.wait([waiting, *ends], return_when=asyncio.FIRST_COMPLETED)
        for end, service in ends.items():
            if end.done() and not waiting.done():
                raise AssertionError(_last_words(service, end.result()))
        await waiting
    finally:
        for task in (waiting, *ends):
            task.cancel()


def _last_words(service: Service, status: int) -> str:
    said = service.log.read_text()[-2000:] if service.log else "what it said was captured"
    return f"a service has ended before it was ready, exit status {status}: {said}"


class ForkedService:
    """As an asyncio subprocess; made within a running loop."""

    def __init__(
        self, module: str, flags: Sequence[str], log: Path | None, with_parent: bool
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(
            target=_run, args=(module, flags, log, with_parent, dict(os.environ)), daemon=True
        )
        self._process.start()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._process.sentinel, self._on_end)

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        # Whom the server has buried is not known to have ended until the server has said so.
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._process.join()
        self._ended.set()


def _run(
    module: str,
    flags: Sequence[str],
    log: Path | None,
    with_parent: bool,
    environment: Mapping[str, str],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if with_parent:
        os.environ[END_WITH_PARENT] = str(os.getppid())
    if log:
        with log.open("ab") as output:
            os.dup2(output.fileno(), sys.stdout.fileno())
            os.dup2(output.fileno(), sys.stderr.fileno())
    sys.argv = [module, *flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
