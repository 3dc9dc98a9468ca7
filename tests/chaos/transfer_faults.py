"""Frames that come to harm between two workers, under load."""

from __future__ import annotations

from asyncio import Semaphore, TaskGroup

from arena import Arena
from watched import KINDS, Watched

from tandem.faults.plan import FaultName

PROMPT_TOKENS = 96
MAX_TOKENS = 6
WAVE = 32
# A frame in so many is harmed. A transfer has eight, and a request is given up after four bad ones.
EVERY = 83
DAMAGE = (
    FaultName.FRAME_CORRUPT,
    FaultName.FRAME_TRUNCATE,
    FaultName.FRAME_DROP,
    FaultName.FRAME_DUPLICATE,
    FaultName.FRAME_REORDER,
    FaultName.FRAME_WRONG_LAYER,
    FaultName.FRAME_WRONG_SHAPE,
    FaultName.FRAME_WRONG_DTYPE,
    FaultName.FRAME_WRONG_TRANSFER,
    FaultName.FRAME_WRONG_EPOCH,
)


def harm(name: FaultName) -> tuple[str, ...]:
    """A prefill worker's flags."""
    return ("--min-frame-bytes=1", "--allow-faults", f"--faults={name}:every={EVERY}")


def some_transfers_fail(share: float) -> tuple[str, ...]:
    """A prefill worker's flags: of all transfers, `share` are harmed, in one of three ways."""
    rate = share / 3 / 8
    names = (FaultName.FRAME_CORRUPT, FaultName.FRAME_DROP, FaultName.STREAM_BREAK)
    faults = ";".join(f"{name}:rate={rate:.5f}" for name in names)
    return ("--min-frame-bytes=1", "--allow-faults", f"--faults={faults}")


async def harmed_frames(arena: Arena, target: int) -> None:
    """Requests until `target` transfers were found damaged. That every damage is found, the tokens
    say, which are a function of every byte."""
    watched: list[Watched] = []
    noticed = 0
    while noticed < target:
        wave = [
            arena.load.submit(PROMPT_TOKENS, MAX_TOKENS, **KINDS[number % 2])
            for number in range(WAVE)
        ]
        await arena.load.settle(wave)
        noticed += sum(each.served_by.num_bad_transfers for each in wave if each.served_by)
        watched += wave
    await arena.finish(watched, faults=noticed)


async def harmed_transfers(arena: Arena, num_requests: int) -> None:
    """So many requests, 128 at a time."""
    room, watched = Semaphore(128), list[Watched]()

    async def one(number: int) -> None:
        async with room:
            each = arena.load.submit(PROMPT_TOKENS, MAX_TOKENS, **KINDS[number % 2])
            watched.append(each)
            await each.reaches(MAX_TOKENS + 1)

    async with TaskGroup() as tasks:
        for number in range(num_requests):
            tasks.create_task(one(number))
    await arena.finish(watched, faults=arena.num_injected())


async def cancelled_transfers(arena: Arena, number: int) -> None:
    """Blocks released while they are read and sent: a request is cancelled in mid-transfer, and
    another takes its blocks at once."""
    doomed = arena.load.submit(PROMPT_TOKENS, MAX_TOKENS)
    await doomed.reaches(1)
    doomed.cancel()
    watched = [doomed, *(arena.load.submit(PROMPT_TOKENS, MAX_TOKENS) for _ in range(3))]
    await arena.finish(watched)
