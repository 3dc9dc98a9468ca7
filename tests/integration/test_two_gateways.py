"""Two gateways: one that stands by for the other, and such as have workers of their own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

from running_gateway import Gateway, running_workers
from stack import collect, expected_mock_tokens, running_stack

COMPLETION = {"prompt": "hello", "max_tokens": 4}


@contextmanager
def killed(gateway: Gateway) -> Iterator[Gateway]:
    try:
        yield gateway
    finally:
        gateway.kill()


async def serves(gateway: Gateway) -> bool:
    async with gateway.client() as client:
        response = await client.post("/v1/completions", json=COMPLETION)
        return response.status_code == 200


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Gateway, Gateway, list[str]]]:
    """One gateway in charge, another that stands by, and the addresses of their workers."""
    async with running_workers() as workers:
        addresses = [worker.address for worker in workers]
        with killed(Gateway("--standby")) as one, killed(Gateway("--standby")) as two:
            await one.start(*addresses)
            await two.start_process(*addresses)
            await two.until_listening()
            yield one, two, addresses


async def test_a_gateway_that_is_taken_for_dead_is_replaced_and_ends_when_it_is_back() -> None:
    async with pair() as (one, two, addresses):
        assert await serves(one)
        assert not await serves(two)
        assert one.process
        one.process.send_signal(signal.SIGSTOP)
        await two.until_ready()
        assert await serves(two)
        one.process.send_signal(signal.SIGCONT)
        assert await one.ended() == 1
        assert await serves(two)
        # Started again, it stands by; and is in charge at once when the other says goodbye.
        await one.start_process(*addresses)
        await one.until_listening()
        assert not await one.answers("/ready")
        assert two.process
        two.process.terminate()
        assert await two.ended() == 0
        await one.until_ready()
        assert await serves(one)


async def test_of_two_that_stand_by_one_takes_all_workers() -> None:
    async with running_workers() as workers:
        addresses = [worker.address for worker in workers]
        with ExitStack() as stack:
            gateways = [stack.enter_context(killed(Gateway("--standby"))) for _ in range(2)]
            for gateway in gateways:
                await gateway.start_process(*addresses)
            await asyncio.wait(
                [asyncio.create_task(gateway.until_ready()) for gateway in gateways],
                return_when=asyncio.FIRST_COMPLETED,
            )
            assert sorted([await serves(gateway) for gateway in gateways]) == [False, True]


async def test_two_gateways_with_workers_of_their_own_serve_both() -> None:
    prompt = tuple(range(40))
    async with running_stack(1, 1) as one, running_stack(1, 1) as two:
        for stack in (one, two):
            tokens, ended = await collect(stack.submit("r", prompt, 8))
            assert tokens == expected_mock_tokens(prompt, 8)
            own = [f"-{worker.port}" for worker in stack.workers]
            by = ended.served_by
            assert by.prefill_worker.endswith(own[0])
            assert by.decode_worker.endswith(own[1])
        await one.dispatcher.stop()
        assert two.dispatcher.ready
        await collect(two.submit("again", prompt, 8))
