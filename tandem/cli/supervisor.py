"""Keeps a fleet's processes running, and ends them all."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from tandem.cli.crash_limit import MAX_CRASHES, WINDOW_S, CrashLimit
from tandem.cli.fleet import Fleet, Service
from tandem.cli.service_process import ServiceProcess
from tandem.core.errors import Unavailable
from tandem.process.settings import DRAIN_TIMEOUT_S

STOP_S = 5.0
# What is left is the workers', once the gateway has said goodbye to them.
GATEWAY_STOP_S = 3.0


class Supervisor:
    """Runs `fleet`. Logs go to `log_dir`, or to the terminal if None; `warn` tells the user of
    services that ended and are started anew. If it `drains` at its end, requests under way are let
    finish, within the `drain_timeout_s` that the services have for it. Once it `is_stopping`,
    whether told to or not, its run is not to be cancelled again."""

    def __init__(
        self,
        fleet: Fleet,
        log_dir: Path | None,
        warn: Callable[[str], None],
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
    ) -> None:
        self.drains = False
        self.is_stopping = False
        self._fleet = fleet
        self._log_dir = log_dir
        self._warn = warn
        self._drain_timeout_s = drain_timeout_s
        self._processes: dict[str, ServiceProcess] = {}
        self._crashes: dict[str, CrashLimit] = defaultdict(CrashLimit)
        self._is_ready = False

    async def run(
        self, until_ready: Coroutine[Any, Any, None], on_ready: Callable[[], None]
    ) -> None:
        """Run until cancelled, then end all processes; they have ended when this does.

        Raises `Unavailable` if a service ends before `until_ready` returns, or if later one keeps
        ending that there is no other for.
        """
        tasks = [asyncio.create_task(until_ready)]
        try:
            for service in self._fleet.services:
                await self._start(service)
                tasks.append(asyncio.create_task(self._keep_running(service)))
            await _first_done(tasks)
            self._is_ready = True
            on_ready()
            await _first_done(tasks[1:])
        finally:
            self.is_stopping = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop()

    def kill(self) -> None:
        """End all processes at once."""
        for process in self._processes.values():
            process.kill()

    async def _start(self, service: Service) -> ServiceProcess:
        log = self._log_dir / f"{service.name}.log" if self._log_dir else None
        try:
            process = await ServiceProcess.start(service, log)
        except OSError as error:
            raise Unavailable(f"{service.name} could not be started: {error}") from error
        # From here on it ends with the run, whatever ends that.
        self._processes[service.name] = process
        await process.place()
        return process

    async def _keep_running(self, service: Service) -> None:
        process = self._processes[service.name]
        while True:
            await process.wait()
            if not self._is_ready:
                raise Unavailable(f"{service.name} could not start, {process.obituary()}")
            if process.ended_well:
                self._warn(f"{service.name} has ended")
            else:
                self._warn(f"{service.name} died, {process.obituary()}")
            process = await self._start_again(service)

    async def _start_again(self, service: Service) -> ServiceProcess:
        while True:
            delay_s = self._delay_s(service)
            when = f" in {delay_s:.0f} s" if delay_s else ""
            self._warn(f"starting {service.name} again{when}")
            await asyncio.sleep(delay_s)
            try:
                return await self._start(service)
            except Unavailable as error:
                self._warn(error.message)

    def _delay_s(self, service: Service) -> float:
        """In how many seconds a service that has ended is to be started again. Raises `Unavailable`
        if it does nothing but crash, and there is no other that does its work."""
        now_s = asyncio.get_running_loop().time()
        delay_s = self._crashes[service.name].crashed(now_s)
        if self._crashes[service.name].is_loop(now_s):
            why = f"{service.name} died {MAX_CRASHES} times within {WINDOW_S:.0f} s"
            mates = self._fleet.mates(service)
            if all(self._crashes[mate.name].is_loop(now_s) for mate in mates):
                self._warn(f"{why}: stopping, once what is under way has ended")
                self.drains = True
                raise Unavailable(why)
            self._warn(f"{why}: the others go on without it")
        return delay_s

    async def _stop(self) -> None:
        """A signal to the gateway, then to the workers, then SIGKILL to what is left."""
        processes = list(self._processes.values())
        gateways = [each for each in processes if each.service is self._fleet.gateway]
        drain_s = self._drain_timeout_s if self.drains else 0.0
        number = signal.SIGTERM if self.drains else signal.SIGINT
        deadline = asyncio.get_running_loop().time() + drain_s + STOP_S
        await _end(gateways, number, deadline - STOP_S + GATEWAY_STOP_S)
        await _end(processes, number, deadline)
        self.kill()
        for process in processes:
            await process.wait()


async def _first_done(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait until one of the tasks is done, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _end(processes: list[ServiceProcess], number: signal.Signals, deadline: float) -> None:
    running = [process for process in processes if not process.has_ended]
    for process in running:
        process.signal(number)
    try:
        async with asyncio.timeout_at(deadline):
            for process in running:
                await process.wait()
    except TimeoutError:
        return
