"""Arms in virtual time: what they would do is worked out by `python -m tandem.simulation`.

The simulator knows the gateway and the workers, which nothing here may import: so it is a process,
which reads a task a line and answers each with a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from tandem.bench.arms import Arm
from tandem.bench.distribution import Distribution
from tandem.bench.open_loop import OpenRun
from tandem.bench.outcome import Objective, Objectives, Outcome
from tandem.bench.subject import MixLoad, PoissonLoop, Subject
from tandem.core.errors import ConfigError, TandemError
from tandem.process.lifetime import END_WITH_PARENT

# An answer has all requests of a run in one line.
MAX_LINE_BYTES = 2**26


@dataclass(frozen=True)
class SimulationTask:
    """An arm on mock devices, and what it is to be asked. Without a `loop` the requests come one at
    a time, `num_requests` of each tenant after one that warms up; with one, an open loop is run
    that waits for nobody who has missed the `loosest` objectives."""

    device: str
    arm: str
    load: MixLoad
    num_requests: int = 0
    loop: PoissonLoop | None = None
    loosest: Objectives | None = None

    def to_json(self) -> str:
        """One line."""
        fields = asdict(self)
        ids = self.load.token_ids
        fields["load"]["token_ids"] = [ids.start, ids.stop]
        return json.dumps(fields)

    @classmethod
    def from_json(cls, line: str) -> SimulationTask:
        """What `to_json` made."""
        fields: dict[str, Any] = json.loads(line)
        load = fields.pop("load")
        ids = range(*load.pop("token_ids"))
        loop, loosest = fields.pop("loop"), fields.pop("loosest")
        return cls(
            load=MixLoad(token_ids=ids, **load),
            loop=loop and PoissonLoop(**loop),
            loosest=loosest and {tenant: Objective(**own) for tenant, own in loosest.items()},
            **fields,
        )


def run_to_json(run: OpenRun) -> str:
    """One line."""
    outcomes = [list(asdict(each).values()) for each in run.outcomes]
    return json.dumps({"outcomes": outcomes, "itl": run.itl.to_json()})


def run_from_json(line: str) -> OpenRun:
    """What `run_to_json` made. Raises the `ConfigError` that `error_to_json` made."""
    fields = json.loads(line)
    if "error" in fields:
        raise ConfigError(fields["error"])
    outcomes = [Outcome(*each) for each in fields["outcomes"]]
    return OpenRun(outcomes, Distribution.from_json(fields["itl"]), load_cores=0.0)


def error_to_json(error: TandemError) -> str:
    """One line."""
    return json.dumps({"error": error.message})


class Simulator:
    """The process at the other end of two pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, task: SimulationTask) -> OpenRun:
        """Have a task worked out. Raises `ConfigError` if it cannot be, and `TandemError` if the
        process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(task.to_json().encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise TandemError("the simulator has ended: see above")
        return run_from_json(line.decode())

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@dataclass(frozen=True)
class SimulatedArm:
    """A `Subject` that begins anew with each measurement."""

    simulator: Simulator
    device: str
    arm: Arm

    async def alone(self, load: MixLoad, num_requests: int) -> list[Outcome]:
        task = SimulationTask(self.device, str(self.arm), load, num_requests)
        return (await self.simulator.ask(task)).outcomes

    async def at_rate(self, load: MixLoad, loop: PoissonLoop, loosest: Objectives) -> OpenRun:
        return await self.simulator.ask(
            SimulationTask(self.device, str(self.arm), load, loop=loop, loosest=loosest)
        )


class SimulatedArms:
    """As many at a time as there are simulators, which are started when they are first needed."""

    def __init__(
        self, device: str, options: tuple[tuple[str, str], ...], num_processes: int
    ) -> None:
        """`options` are flags of `tandem up` that all arms have."""
        self._device = device
        self._options = options
        self._free = asyncio.Semaphore(num_processes)
        self._idle: list[Simulator] = []
        self._all: list[Simulator] = []

    @asynccontextmanager
    async def serving(self, arm: Arm) -> AsyncIterator[Subject]:
        async with self._free:
            simulator = self._idle.pop() if self._idle else await self._start()
            # An arm's own come later, and count.
            whole = Arm(arm.topology, (*self._options, *arm.options))
            yield SimulatedArm(simulator, self._device, whole)
            # Of one that was broken off the answer is still to come: it is not used again.
            self._idle.append(simulator)

    async def close(self) -> None:
        """End the processes."""
        for each in self._all:
            await each.stop()

    async def _start(self) -> Simulator:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tandem.simulation"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            # What stops the sweep ends it, too, but not before the sweep does.
            process_group=0,
            env={**os.environ, END_WITH_PARENT: str(os.getpid())},
        )
        self._all.append(simulator := Simulator(process))
        return simulator
