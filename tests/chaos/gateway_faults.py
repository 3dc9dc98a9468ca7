"""A gateway that dies: its workers free what it held there, and serve the next one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic

from arena import Arena
from running_gateway import Gateway
from stack import RecordingDispatcher, expected_mock_tokens
from watched import Load

from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.timeline import Timeline
from tandem.artifacts.resolve import resolve
from tandem.client import AsyncClient
from tandem.core.errors import TandemError
from tandem.core.worker import WorkerRole

LEASE_S = 5.0
FREE_S = LEASE_S + 2.0
PROMPT_TOKENS = 96
MAX_TOKENS = 60
NUM_STREAMS = 8


async def kill_gateway(arena: Arena, number: int) -> None:
    """SIGKILL of a gateway process with streams in every phase. Each client is told; a new gateway
    gets the workers when the lease is over, with all blocks free."""
    await arena.stack.dispatcher.stop()
    gateway = Gateway()
    addresses = [",".join(each.address for each in arena.workers(role)) for role in WorkerRole]
    await gateway.start(*addresses)
    assert gateway.process
    async with AsyncClient(gateway.grpc_address) as client:
        begun = asyncio.Event()
        streams = [
            asyncio.create_task(_follow(arena.load, client, begun)) for _ in range(NUM_STREAMS)
        ]
        await begun.wait()
        await asyncio.sleep(0.05 * (number % 5))
        since = monotonic()
        gateway.process.kill()
        await gateway.process.wait()
        ends = await asyncio.wait_for(asyncio.gather(*streams), 30)
    arena.outcome.requests += len(ends)
    arena.outcome.wrong += ends.count(False)
    await _succeed(arena)
    arena.outcome.detected_s.append(monotonic() - since)
    leaked = await arena.num_leaked(max(0.1, since + FREE_S - monotonic()))
    arena.outcome.pause_s.append(monotonic() - since)
    watched = [arena.load.submit(PROMPT_TOKENS, 8) for _ in range(4)]
    await arena.finish(watched)
    arena.outcome.survived -= leaked > 0 or not all(ends)


async def _follow(load: Load, client: AsyncClient, begun: asyncio.Event) -> bool:
    """Whether what came of an answer, up to its end or the gateway's, was right."""
    prompt = load.prompt(PROMPT_TOKENS)
    tokens: list[int] = []
    with suppress(TandemError):
        async with client.stream(
            token_ids=prompt, max_tokens=MAX_TOKENS, temperature=0.0, ignore_eos=True
        ) as stream:
            async for delta in stream:
                tokens += delta.token_ids
                begun.set()
    expected = await asyncio.to_thread(expected_mock_tokens, prompt, MAX_TOKENS)
    return tokens == expected[: len(tokens)]


async def _succeed(arena: Arena) -> None:
    """Another gateway takes the workers over: in this process."""
    stack = arena.stack
    scheduler = Scheduler(queue_policy("shortest-first"), Limits(), first_id=stack.next_first_id())
    workers = [(each.role, each.address) for each in stack.workers]
    stack.dispatcher = RecordingDispatcher(
        scheduler, workers, resolve("mock").fingerprint, Timeline()
    )
    stack.dispatcher.start()
    for worker in stack.workers:
        await arena.joined(worker)
