"""Clients that leave, are late, or want more than there is."""

from __future__ import annotations

import asyncio
from time import monotonic

from arena import Arena
from watched import Watched

from gateway.generation import Phase
from tandem.core.errors import DeadlineExceeded, TandemError

PROMPT_TOKENS = 400
FREED_S = 1.0
LATE_S = 1.0


async def leave_queued(arena: Arena, number: int) -> None:
    await _leave(arena, arena.load.submit(PROMPT_TOKENS, 8))


async def leave_prefilling(arena: Arena, number: int) -> None:
    watched = arena.load.submit(PROMPT_TOKENS, 8)
    await _phase(arena, watched, Phase.PREFILLING)
    await _leave(arena, watched)


async def leave_transferring(arena: Arena, number: int) -> None:
    """The first token is there, and its KV on its way."""
    watched = arena.load.submit(PROMPT_TOKENS, 8)
    await watched.reaches(1)
    await _leave(arena, watched)


async def leave_decoding(arena: Arena, number: int) -> None:
    watched = arena.load.submit(PROMPT_TOKENS, 40)
    await watched.reaches(3)
    await _leave(arena, watched)


async def _leave(arena: Arena, watched: Watched) -> None:
    since = monotonic()
    watched.cancel()
    leaked = await arena.num_leaked(FREED_S)
    arena.outcome.pause_s.append(monotonic() - since)
    await arena.finish([watched])
    arena.outcome.survived -= leaked > 0


async def _phase(arena: Arena, watched: Watched, phase: Phase) -> None:
    generation = watched.stream.generation
    await arena.stack.until(lambda: generation.phase not in (Phase.QUEUED, Phase.RESERVING))
    assert generation.phase in (phase, Phase.DECODING)


async def deadlines(arena: Arena, number: int) -> None:
    """A deadline before the start, at it, and in each phase: the request ends by then, in one way,
    and everybody else's goes on."""
    allowed_s = (-1.0, 0.0, 0.02, 0.2, 0.6)[number % 5]
    others = [arena.load.submit(64, 8) for _ in range(4)]
    since = monotonic()
    try:
        late = arena.load.submit(PROMPT_TOKENS, 60, deadline_s=since + allowed_s)
    except TandemError as error:
        arena.outcome.survived -= not isinstance(error, DeadlineExceeded) and allowed_s <= 0
    else:
        await late.reaches(61)
        arena.outcome.pause_s.append(monotonic() - since - max(0.0, allowed_s))
        arena.outcome.survived -= not isinstance(late.error, DeadlineExceeded) and not late.is_whole
        late.cancelled = late.error is not None
        others.append(late)
    await arena.finish(others)


async def more_than_fits(arena: Arena, number: int) -> None:
    """A wave that wants up to four times the pools: it waits, or is preempted, and all of it is
    served."""
    demand = (1.1, 2.0, 3.0, 4.0)[number % 4]
    (num_blocks, *_) = arena.stack.dispatcher.num_blocks.values()
    blocks_each = (64 + 64) // 16
    watched = [arena.load.submit(64, 64) for _ in range(int(num_blocks * 2 * demand / blocks_each))]
    await asyncio.sleep(0)
    await arena.finish(watched)
