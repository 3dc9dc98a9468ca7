"""Workers that are added to a running gateway, and removed from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGKILL

import pytest
from stack import Stack, WorkerProcess, collect, expected_mock_tokens, running_stack, started
from structlog.testing import capture_logs

from tandem.bench.ports import free_port
from tandem.core.errors import Unavailable
from tandem.core.worker import WorkerRole

PROMPT = tuple(range(100))


@asynccontextmanager
async def another_decode_worker(stack: Stack, *flags: str) -> AsyncIterator[WorkerProcess]:
    """One that has been added, and has joined."""
    worker = WorkerProcess(WorkerRole.DECODE, "--model=mock", "--device=mock:zero", *flags)
    num_workers = len(stack.dispatcher.num_blocks)
    async with started(worker):
        stack.dispatcher.add_worker(worker.role, worker.address)
        await stack.until(lambda: len(stack.dispatcher.num_blocks) > num_workers, 60)
        yield worker


async def lose(stack: Stack, worker: WorkerProcess) -> None:
    """Kill a worker, and wait until the gateway has given it up; the news come from the others."""
    worker.signal(SIGKILL)
    await stack.until(lambda: not stack.dispatcher.is_connected(worker.address))


async def test_one_that_is_added_takes_over_from_one_that_is_gone() -> None:
    async with running_stack(1, 1) as stack, another_decode_worker(stack) as added:
        gone = stack.workers[1]
        await lose(stack, gone)
        stack.dispatcher.remove_worker(gone.address)
        tokens, ended = await collect(stack.submit("r", PROMPT, 8))
        assert tokens == expected_mock_tokens(PROMPT, 8)
        assert ended.served_by.decode_worker.endswith(str(added.port))


async def test_nobody_joins_at_an_address_that_was_removed() -> None:
    async with running_stack(1, 1) as stack:
        late = WorkerProcess(WorkerRole.DECODE, "--model=mock", "--device=mock:zero")
        stack.dispatcher.add_worker(late.role, late.address)
        stack.dispatcher.remove_worker(late.address)
        with capture_logs() as logs:
            # By the time one that was added later has joined, the late one would have as well.
            async with started(late), another_decode_worker(stack):
                assert len(stack.dispatcher.num_blocks) == 3
        assert "link failed" not in [each["event"] for each in logs]


async def test_kv_goes_to_the_address_that_a_worker_advertises() -> None:
    async with running_stack(1, 1) as stack:
        await lose(stack, stack.workers[1])
        nowhere = f"127.0.0.1:{free_port()}"
        async with another_decode_worker(stack, f"--advertise={nowhere}"):
            with pytest.raises(Unavailable):
                await collect(stack.submit("r", PROMPT, 8))
