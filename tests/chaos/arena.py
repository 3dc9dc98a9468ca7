"""A fleet that faults are done to, and what is looked at after each."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from outcome import Outcome
from stack import Stack, WorkerProcess, running_stack
from watched import Load, Watched

from tandem.core.worker import WorkerRole

# What a killed worker held is free at the gateway's next look; a lease is 5 s.
FREE_S = 8.0
JOIN_S = 120.0


@dataclass
class Arena:
    """A running fleet, its load, and the figures of the scenario."""

    stack: Stack
    load: Load
    outcome: Outcome
    logs: Path
    armed_flags: dict[WorkerProcess, tuple[str, ...]] = field(default_factory=dict)

    def workers(self, role: WorkerRole) -> list[WorkerProcess]:
        return [each for each in self.stack.workers if each.role is role]

    def worker_of(self, worker_id: str) -> WorkerProcess:
        """The worker of this id, which ends with its port."""
        return next(each for each in self.stack.workers if worker_id.endswith(f"-{each.port}"))

    def is_doubted(self, worker: WorkerProcess) -> bool:
        """Whether the gateway gives it nothing new."""
        dispatcher = self.stack.dispatcher
        return not dispatcher.is_connected(worker.address) or any(
            name.endswith(f"-{worker.port}") for name in dispatcher.suspects
        )

    async def restart(self, worker: WorkerProcess, *extra_flags: str) -> None:
        """Start a worker anew, once its last life is over, and wait until it has joined."""
        await worker.stop()
        flags = self.armed_flags.setdefault(worker, worker.flags)
        worker.flags = (*flags, *extra_flags)
        await self.stack.until(
            lambda: not self.stack.dispatcher.is_connected(worker.address), JOIN_S
        )
        await worker.start()
        await self.joined(worker)

    async def joined(self, worker: WorkerProcess) -> None:
        await self.stack.until(lambda: self.stack.dispatcher.is_connected(worker.address), JOIN_S)
        self.trust(worker)

    def trust(self, worker: WorkerProcess) -> None:
        suspects = self.stack.dispatcher.suspects
        suspects -= {name for name in suspects if name.endswith(f"-{worker.port}")}

    async def detected(self, worker: WorkerProcess, since: float) -> None:
        """Note how long it took until the gateway doubted a worker."""
        await self.stack.until(lambda: self.is_doubted(worker), JOIN_S)
        self.outcome.detected_s.append(monotonic() - since)

    async def finish(
        self, watched: Sequence[Watched], since: float | None = None, faults: int = 1
    ) -> None:
        """Wait for all ends, and check what must hold after every fault. With `since`, the fault's
        time, the longest pause of a stream is noted."""
        await self.load.settle(watched)
        self.outcome.count(watched, faults)
        if since is not None:
            pauses = [each.pause_after(since) for each in watched if not each.cancelled]
            self.outcome.pause_s.append(max(pauses, default=0.0))
        self.outcome.leaked += await self.num_leaked(FREE_S)

    async def num_leaked(self, timeout_s: float) -> int:
        """Blocks that are not free again in time; the report says whose. What a worker held that is
        lost meanwhile is gone with it, though the last that was heard of it says otherwise."""
        recorder = self.stack.dispatcher

        def leaked() -> dict[str, int]:
            held = filter(recorder.is_held, recorder.num_blocks)
            used = {
                each: recorder.num_blocks[each] - recorder.num_free.get(each, 0) for each in held
            }
            return {each: count for each, count in used.items() if count}

        try:
            await self.stack.until(lambda: not leaked(), timeout_s)
        except TimeoutError:
            self.outcome.reasons += [
                f"{count} blocks of {name}" for name, count in leaked().items()
            ]
        return sum(leaked().values())

    def num_injected(self) -> int:
        """How often workers logged that they struck."""
        return sum(each.read_text().count("fault injected") for each in self.logs.glob("*.log"))


@asynccontextmanager
async def arena(
    scenario: str,
    seed: int,
    logs: Path,
    num_prefill: int = 2,
    num_decode: int = 2,
    shared_flags: Sequence[str] = (),
    **settings: Any,
) -> AsyncIterator[Arena]:
    """A fleet of mock GPUs, unless `settings` of `running_stack` say otherwise."""
    settings = {"devices": ("mock:h100x8",), "logs": logs, **settings}
    async with running_stack(num_prefill, num_decode, *shared_flags, **settings) as stack:
        load = Load(stack, f"{scenario} {seed}")
        yield Arena(stack, load, Outcome(scenario), logs)


async def stop_for(worker: WorkerProcess, seconds: float) -> None:
    """Let a worker stand still, and then go on."""
    worker.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        worker.signal(signal.SIGCONT)
