"""Workers that die, stand still, stall, or end in good order, under load."""

from __future__ import annotations

import asyncio
import signal
from time import monotonic

from arena import Arena, stop_for
from stack import WorkerProcess

from tandem.core.worker import WorkerRole

# One frame a layer and plane of the mock model: so many a transfer of a prompt that is one chunk.
SMALL_FRAMES = ("--min-frame-bytes=1",)
NUM_FRAMES = 8
PROMPT_TOKENS = 96
MAX_TOKENS = 32
STOP_S = 10.0


async def kill_prefill(arena: Arena, number: int) -> None:
    """SIGKILL of a prefill worker by itself, before a certain frame of a transfer: at 0, 25, 50, 75
    or 99 % of it."""
    victim = arena.workers(WorkerRole.PREFILL)[0]
    place = (0, 2, 4, 6, 7)[number % 5] + NUM_FRAMES * (number % 3)
    await arena.restart(victim, "--allow-faults", f"--faults=kv.frame.kill:skip={place}")
    death = asyncio.create_task(victim.ended())
    watched = arena.load.wave(16, PROMPT_TOKENS, MAX_TOKENS)
    while not death.done():
        await asyncio.wait({death}, timeout=0.5)
        if not death.done():
            watched += arena.load.wave(4, PROMPT_TOKENS, MAX_TOKENS)
    death.result()
    since = monotonic()
    await arena.detected(victim, since)
    await arena.finish(watched, since)


async def kill_decode(arena: Arena, number: int) -> None:
    """SIGKILL of a decode worker at the first, a middle and the last token of a stream there."""
    watched = arena.load.wave(12, PROMPT_TOKENS, MAX_TOKENS)
    chosen = watched[number % 3]
    await chosen.reaches((1, MAX_TOKENS // 2, MAX_TOKENS - 1)[number // 3 % 3])
    victim = arena.worker_of(chosen.stream.generation.decode_worker or _any_decode(arena))
    since = monotonic()
    victim.signal(signal.SIGKILL)
    await arena.detected(victim, since)
    await arena.finish(watched, since)
    await arena.restart(victim)


async def stop_prefill(arena: Arena, number: int) -> None:
    """SIGSTOP for twice its lease: what it sends when it goes on is fenced."""
    workers = arena.workers(WorkerRole.PREFILL)
    await _stop(arena, workers[number % len(workers)])


async def stop_decode(arena: Arena, number: int) -> None:
    workers = arena.workers(WorkerRole.DECODE)
    await _stop(arena, workers[number % len(workers)])


async def _stop(arena: Arena, victim: WorkerProcess) -> None:
    watched = arena.load.wave(16, PROMPT_TOKENS, MAX_TOKENS)
    await watched[0].reaches(1)
    since = monotonic()
    stopping = asyncio.create_task(stop_for(victim, STOP_S))
    await arena.detected(victim, since)
    later = arena.load.wave(8, PROMPT_TOKENS, 8)
    await stopping
    await arena.stack.until(lambda: arena.stack.dispatcher.is_connected(victim.address))
    arena.trust(victim)
    # The zombie is back: it serves, and nothing of its last life counts.
    after = arena.load.wave(8, PROMPT_TOKENS, 8)
    await arena.finish([*watched, *later, *after], since)


async def stall_engine(arena: Arena, number: int) -> None:
    """Workers whose every 40th step lasts a second longer."""
    await _under_faults(arena, 60, 24)


# Until a fault that waits for its step has come.
MAX_WAVES = 20


async def fail_step(arena: Arena, number: int) -> None:
    """A step of a prefill or a decode worker fails: its first, or a later one, once."""
    victim = arena.workers((WorkerRole.PREFILL, WorkerRole.DECODE)[number % 2])[0]
    skip = (0, 2, 7)[number // 2 % 3]
    await arena.restart(victim, "--allow-faults", f"--faults=engine.fail:skip={skip},times=1")
    before = arena.num_injected()
    watched = arena.load.wave(24, PROMPT_TOKENS, MAX_TOKENS)
    await arena.load.settle(watched)
    for _ in range(MAX_WAVES):
        if arena.num_injected() > before:
            break
        watched += arena.load.wave(8, PROMPT_TOKENS, MAX_TOKENS)
        await arena.load.settle(watched)
    await arena.finish(watched, faults=arena.num_injected() - before)


async def hang_step(arena: Arena, number: int) -> None:
    """A step of a prefill or a decode worker never ends: the worker notices, and ends itself."""
    victim = arena.workers((WorkerRole.PREFILL, WorkerRole.DECODE)[number % 2])[0]
    skip = (0, 2, 7)[number // 2 % 3]
    faults = f"--faults=engine.stall:skip={skip},times=1,seconds=3600"
    await arena.restart(victim, "--step-timeout=1", "--allow-faults", faults)
    death, since = asyncio.create_task(victim.ended()), monotonic()
    watched = arena.load.wave(24, PROMPT_TOKENS, MAX_TOKENS)
    while not death.done():
        await asyncio.wait({death}, timeout=0.5)
        if not death.done():
            watched += arena.load.wave(4, PROMPT_TOKENS, MAX_TOKENS)
    death.result()
    await arena.finish(watched, since)
    await arena.restart(victim)


async def break_reports(arena: Arena, number: int) -> None:
    """Command streams that break at every 60th message, and say every 25th late."""
    await _under_faults(arena, 60, 24)


async def _under_faults(arena: Arena, count: int, max_tokens: int) -> None:
    before, since = arena.num_injected(), monotonic()
    watched = arena.load.wave(count, PROMPT_TOKENS, max_tokens)
    await arena.load.settle(watched)
    await arena.finish(watched, since, faults=arena.num_injected() - before)


async def rolling_restart(arena: Arena, number: int) -> None:
    """SIGTERM to every worker in turn, each started again, while requests keep coming."""
    watched = []
    for worker in arena.stack.workers:
        watched += arena.load.wave(12, PROMPT_TOKENS, MAX_TOKENS)
        await watched[-12].reaches(2)
        since = monotonic()
        worker.signal(signal.SIGTERM)
        await worker.ended()
        await arena.restart(worker)
        watched += arena.load.wave(4, PROMPT_TOKENS, MAX_TOKENS)
    await arena.finish(watched, since, faults=len(arena.stack.workers))


def _any_decode(arena: Arena) -> str:
    return f"-{arena.workers(WorkerRole.DECODE)[0].port}"
