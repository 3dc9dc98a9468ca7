"""Workers that are told to end: real processes on mock GPUs, in the middle of their work."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stack import Stack, WorkerProcess, collect, expected_mock_tokens, running_stack

from gateway.tokens import ServedBy
from tandem.core.errors import Unavailable
from tandem.wire.channels import open_channel

PROMPT = tuple(range(100))
# Some 25 ms a token.
SLOW = ("mock:h100x5",)
RESTART_S = 60.0


async def served(stack: Stack, name: str, max_tokens: int) -> ServedBy:
    """Serve one request; its tokens are checked."""
    prompt = (*PROMPT, *name.encode())
    tokens, ended = await collect(stack.submit(name, prompt, max_tokens))
    assert tokens == expected_mock_tokens(prompt, max_tokens)
    return ended.served_by


async def under_way(stack: Stack, *tasks: Awaitable[Any]) -> list[str]:
    """Wait until each of so many requests has a token from a decode worker: which they are."""
    workers = stack.dispatcher.workers

    def all_armed() -> bool:
        generations = [it for each in workers for it in each.generations.values()]
        return sum(it.armed and len(it.token_ids) > 1 for it in generations) == len(tasks)

    await stack.until(all_armed)
    return [each.info.worker_id for each in workers if each.generations]


def process_of(stack: Stack, worker_id: str) -> WorkerProcess:
    return next(each for each in stack.workers if worker_id.endswith(f"-{each.port}"))


async def restart(stack: Stack, worker: WorkerProcess) -> None:
    """As an operator does: SIGTERM, wait for the end, start it again, wait until it has joined."""
    before = stack.dispatcher.num_joined
    worker.signal(signal.SIGTERM)
    assert await worker.ended() == 0
    await worker.start()
    await stack.until(lambda: stack.dispatcher.num_joined > before, RESTART_S)


async def test_a_rolling_restart_of_all_workers_loses_no_request_and_no_token() -> None:
    async with running_stack(2, 2, devices=SLOW) as stack:
        done = asyncio.Event()

        async def client(number: int) -> list[ServedBy]:
            answers: list[ServedBy] = []
            while not done.is_set():
                answers.append(await served(stack, f"{number}-{len(answers)}", 40))
            return answers

        clients = [asyncio.create_task(client(number)) for number in range(6)]
        for worker in stack.workers:
            await restart(stack, worker)
        done.set()
        answers = [answer for each in clients for answer in await each]
        assert sum(each.num_losses for each in answers) == 0
        assert len({each.decode_worker for each in answers}) == 2
        await stack.until_all_free()


async def test_what_is_not_done_in_time_goes_on_elsewhere() -> None:
    async with running_stack(1, 2, "--drain-timeout=4", devices=SLOW) as stack:
        long = asyncio.create_task(served(stack, "long", 400))
        (holder,) = await under_way(stack, long)
        worker = process_of(stack, holder)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        by = await long
        assert (by.num_losses, by.num_preemptions) == (0, 0)
        assert 0 < by.num_resumed_tokens < 399
        assert by.decode_worker != holder


async def test_the_only_worker_finishes_what_it_has_and_takes_nothing_more() -> None:
    async with running_stack(1, 1, devices=SLOW) as stack:
        stream = asyncio.create_task(served(stack, "r", 60))
        await under_way(stack, stream)
        worker = stack.workers[1]
        async with open_channel(worker.address) as channel:
            watch: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            worker.signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
        await stack.until(lambda: not stack.dispatcher.ready)
        with pytest.raises(Unavailable, match="there is no decode worker that does not drain"):
            stack.submit("late", PROMPT, 1)
        by = await stream
        assert (by.num_losses, by.num_resumed_tokens) == (0, 0)
        assert await worker.ended() == 0


async def test_a_prefill_worker_ends_when_its_kv_has_arrived() -> None:
    # A prompt of many batches, the last of which is not sent yet when the worker is told to end.
    async with running_stack(2, 1, devices=("mock:h100x50",)) as stack:
        prompt = PROMPT * 8
        stream = stack.submit("r", prompt, 4)
        prefill = stack.dispatcher.workers[:2]
        await stack.until(lambda: any(each.batches for each in prefill))
        (holder,) = [each.info.worker_id for each in prefill if each.batches]
        worker = process_of(stack, holder)
        worker.signal(signal.SIGTERM)
        tokens, ended = await collect(stream)
        assert tokens == expected_mock_tokens(prompt, 4)
        assert ended.served_by.prefill_worker == holder
        assert ended.served_by.num_losses == 0
        assert await worker.ended() == 0


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,)])
async def test_a_second_signal_or_sigint_ends_a_worker_at_once(
    signals: tuple[signal.Signals, ...],
) -> None:
    async with running_stack(1, 1, devices=SLOW) as stack:
        stream = asyncio.create_task(served(stack, "r", 2000))
        await under_way(stack, stream)
        worker = stack.workers[1]
        worker.signal(signals[0])
        if len(signals) > 1:
            await stack.until(lambda: not stack.dispatcher.ready)
            worker.signal(signals[1])
        assert await worker.ended() == 0
        await stack.until(lambda: not stack.dispatcher.is_connected(worker.address))
        stream.cancel()


async def test_the_end_comes_when_the_time_is_over_whatever_is_left() -> None:
    async with running_stack(1, 1, "--drain-timeout=0.5", devices=SLOW) as stack:
        stream = asyncio.create_task(served(stack, "r", 2000))
        await under_way(stack, stream)
        worker = stack.workers[1]
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        assert not stream.done()
        stream.cancel()
