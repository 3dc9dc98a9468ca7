"""A service as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

from tandem.cli.fleet import Service
from tandem.process.cores import bind_process, let_others_first
from tandem.process.lifetime import END_WITH_PARENT

TAIL_BYTES = 64 * 1024
TAIL_LINES = 8
ERROR = "error: "
# Flags' twins that can be right for one process alone.
OF_ONE = frozenset({"TANDEM_ADVERTISE", "TANDEM_METRICS_PORT"})


class ServiceProcess:
    """One run of `service`. What it writes goes to the end of `log`, or to the terminal if None."""

    def __init__(self, service: Service, log: Path | None, process: Process) -> None:
        self.service = service
        self.log = log
        self._process = process

    @classmethod
    async def start(cls, service: Service, log: Path | None) -> ServiceProcess:
        # In a session of its own: Ctrl-C is for its parent, which ends its children in order.
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("ab")) if log else None
            process = await asyncio.create_subprocess_exec(
                *service.command,
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={
                    **{name: os.environ[name] for name in os.environ if name not in OF_ONE},
                    **service.environment,
                    END_WITH_PARENT: str(os.getpid()),
                },
            )
        return cls(service, log, process)

    async def place(self) -> None:
        """Have it run where, and as, its service says: once it has been started, and before it has
        threads."""
        # It has ended; or its cores are gone, of which it dies by itself, and says so.
        with contextlib.suppress(OSError):
            bind_process(self._process.pid, self.service.cores)
            await let_others_first(self._process.pid, self.service.niceness)

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    @property
    def ended_well(self) -> bool:
        """Whether it has ended as it was asked to."""
        return self._process.returncode == 0

    async def wait(self) -> None:
        await self._process.wait()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        # Not the process's own method, which also reaps it, before asyncio's watcher can.
        if not self.has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def obituary(self) -> str:
        """How it ended and, on lines of their own, its last words."""
        how = _describe(self._process.returncode)
        lines = self._last_lines()
        if lines and lines[-1].startswith(ERROR):
            return f"{how}: {lines[-1].removeprefix(ERROR)}"
        where = [f"  log: {self.log}"] if self.log else []
        return "\n".join([how, *(f"  | {line}" for line in lines), *where])

    def _last_lines(self) -> list[str]:
        if self.log is None:
            return []
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError as error:
            return [f"its log cannot be read: {error}"]
        return [line for line in text.splitlines() if line.strip()][-TAIL_LINES:]


def _describe(returncode: int | None) -> str:
    if returncode is None:
        return "still running"
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit status {returncode}"
