"""Partitions of each edge, and a slow link. This process is itself in the gateway's namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import psutil
from arena import Arena
from namespaces import GATEWAY, Network

from tandem.core.worker import WorkerRole

HOSTS = (GATEWAY, "tandem-prefill-0", "tandem-prefill-1", "tandem-decode-0", "tandem-decode-1")
NETWORK = Network(HOSTS)
FIRST_PORT = 50051
# A partition lasts longer than the gateway takes to doubt a worker, and the lease.
PARTITION_S = 7.0
PROMPT_TOKENS = 96
MAX_TOKENS = 32
LONG_PROMPT_TOKENS = 1500
# Two frames for each of four regions under way, gRPC's copies, and what a heap wastes of them.
MAX_SENDER_GROWTH_BYTES = 64 * 2**20


def places() -> list[dict[str, object]]:
    """Where the workers run, prefill first."""
    hosts = [NETWORK.hosts[name] for name in HOSTS[1:]]
    # A worker's name is made of its port, and its machine's name, which is one here.
    return [
        {"host": each.address, "port": FIRST_PORT + number, "command": each.command}
        for number, each in enumerate(hosts)
    ]


def partition(one: str, other: str, how: str) -> Callable[[Arena, int], Awaitable[None]]:
    """A scenario: the edge between two hosts is cut, and whole again after a while."""

    async def run(arena: Arena, number: int) -> None:
        watched = arena.load.wave(12, PROMPT_TOKENS, MAX_TOKENS)
        await watched[0].reaches(1)
        since = monotonic()
        with NETWORK.partition(one, other, how):
            watched += arena.load.wave(8, PROMPT_TOKENS, MAX_TOKENS)
            if one == GATEWAY:
                victim = next(
                    each
                    for each in arena.stack.workers
                    if each.host == NETWORK.hosts[other].address
                )
                await arena.detected(victim, since)
            await asyncio.sleep(max(0.0, since + PARTITION_S - monotonic()))
        for worker in arena.stack.workers:
            await arena.stack.until(
                lambda each=worker: arena.stack.dispatcher.is_connected(each.address)
            )
            arena.trust(worker)
        await arena.finish(watched, since)

    return run


async def slow_link(arena: Arena, number: int) -> None:
    """A decode worker behind 8 Mbit/s: its transfers wait in their senders' pools, whose processes
    do not grow."""
    senders = [psutil.Process(each.pid) for each in arena.workers(WorkerRole.PREFILL)]
    before = [each.memory_info().rss for each in senders]
    since = monotonic()
    with NETWORK.slow(HOSTS[3 + number % 2], "8mbit"):
        watched = [arena.load.submit(LONG_PROMPT_TOKENS, 8) for _ in range(16)]
        await arena.load.settle(watched)
    await arena.finish(watched, since)
    growth = max(
        each.memory_info().rss - bytes_before
        for each, bytes_before in zip(senders, before, strict=True)
    )
    arena.outcome.survived -= growth > MAX_SENDER_GROWTH_BYTES
