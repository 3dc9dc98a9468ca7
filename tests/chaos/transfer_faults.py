"""Frames that come to harm between two workers, under load."""

from __future__ import annotations

from asyncio import Semaphore, TaskGroup, gather

import grpc
from arena import Arena
from watched import KINDS, Watched

from tandem.faults.plan import FaultName
from tandem.v1 import kv_pb2, kv_pb2_grpc
from tandem.wire.channels import open_channel
from tandem.wire.descriptions import layout_to_wire

PROMPT_TOKENS = 96
MAX_TOKENS = 6
WAVE = 32
# A frame in so many is harmed. A transfer has eight, and a request is given up after four bad ones.
EVERY = 83


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


async def repeated_transfers(arena: Arena, number: int) -> None:
    """Who was in the middle repeats a whole transfer behind its end, with another first token: it
    is refused, and changes nothing."""
    watched = [arena.load.submit(PROMPT_TOKENS, 40, **KINDS[each % 2]) for each in range(4)]
    victim = watched[number % 4]
    # Armed: a second token has come.
    await victim.reaches(2)
    is_refused = await gather(*(_is_refused(arena, victim) for _ in range(2)))
    await arena.finish(watched)
    arena.outcome.survived -= not all(is_refused)


async def _is_refused(arena: Arena, victim: Watched) -> bool:
    generation = victim.stream.generation
    decode, grant = generation.decode, generation.grant
    assert decode and grant, "it is decoded where its KV was sent"
    opening = kv_pb2.TransferOpen(
        transfer_id=grant.transfer_id,
        epoch=grant.epoch,
        model_fingerprint=decode.info.model.fingerprint,
        layout=layout_to_wire(decode.info.layout),
        sender="somebody",
    )
    wrong = kv_pb2.TransferFinish(num_frames=0, first_token_id=victim.tokens[0] ^ 1)
    async with open_channel(decode.address) as channel:
        messages = [kv_pb2.PushKvRequest(open=opening), kv_pb2.PushKvRequest(finish=wrong)]
        try:
            await kv_pb2_grpc.KvTransferServiceStub(channel).PushKv(iter(messages))
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
    return False
