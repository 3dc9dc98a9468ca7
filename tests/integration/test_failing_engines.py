"""Engines whose steps fail, or never end: what becomes of the streams, and of the process."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from stack import Stack, WorkerProcess, collect, expected_mock_tokens, running_stack

from tandem.core.errors import EngineFailed
from tandem.worker.step_watch import HUNG_STATUS

PROMPTS = [tuple(range(40 + number, 100)) for number in range(8)]
NUM_TOKENS = 24
HANGS = "engine.stall:skip=2,seconds=3600"


def injected(faults: str) -> tuple[str, str]:
    return "--allow-faults", f"--faults={faults}"


async def restart(stack: Stack, worker: WorkerProcess, *flags: str) -> None:
    """Start a worker anew, with other flags besides."""
    await worker.stop()
    await stack.until(lambda: not stack.dispatcher.is_connected(worker.address))
    worker.flags = (*worker.flags, *flags)
    await worker.start()
    await stack.until(lambda: stack.dispatcher.is_connected(worker.address), 60)


def num_steps(stack: Stack, worker: WorkerProcess) -> int:
    """How many steps a decode worker has reported."""
    steps = stack.dispatcher.steps.items()
    return sum(len(done) for name, done in steps if name.endswith(f"-{worker.port}"))


async def losses_of_all(stack: Stack) -> int:
    """How often requests went on elsewhere, all of which get each of their tokens."""
    streams = [stack.submit(f"r{n}", prompt, NUM_TOKENS) for n, prompt in enumerate(PROMPTS)]
    results = await asyncio.gather(*map(collect, streams))
    for prompt, (tokens, _) in zip(PROMPTS, results, strict=True):
        assert tokens == expected_mock_tokens(prompt, NUM_TOKENS)
    return sum(ended.served_by.num_losses for _, ended in results)


@pytest.mark.parametrize(
    ("topology", "role", "skip"),
    [((1, 1), "prefill", 0), ((1, 1), "decode", 12), ((0, 1), "decode", 12)],
)
async def test_a_step_that_fails_costs_no_token(
    topology: tuple[int, int], role: str, skip: int
) -> None:
    """There is but one engine: it is well again."""
    settings: dict[str, Any] = {f"{role}_flags": injected(f"engine.fail:skip={skip},times=1")}
    async with running_stack(*topology, **settings) as stack:
        assert await losses_of_all(stack) > 0
        assert stack.dispatcher.num_joined == sum(topology)
        await stack.until_all_free()


async def test_a_request_whose_steps_always_fail_ends_and_the_worker_lives() -> None:
    flags = injected("engine.fail:times=2")
    async with running_stack(1, 1, decode_flags=flags) as stack:
        with pytest.raises(EngineFailed):
            await collect(stack.submit("cause", PROMPTS[0], NUM_TOKENS))
        assert await losses_of_all(stack) == 0
        assert stack.dispatcher.num_joined == 2
        await stack.until_all_free()


@pytest.mark.parametrize("place", [0, 2])
async def test_a_step_that_never_ends_costs_its_worker_and_no_token(place: int) -> None:
    async with running_stack(2, 2) as stack:
        hanging = stack.workers[place]
        await restart(stack, hanging, "--step-timeout=0.5", *injected(HANGS))
        ended = asyncio.create_task(hanging.ended())
        num_losses = 0
        while not ended.done():
            num_losses += await losses_of_all(stack)
        assert await ended == HUNG_STATUS
        assert num_losses > 0


async def test_sigterm_ends_a_worker_whose_step_hangs() -> None:
    async with running_stack(1, 2) as stack:
        hanging = stack.workers[1]
        flags = ("--drain-timeout=1", "--step-timeout=0")
        await restart(stack, hanging, *flags, *injected(HANGS))
        serving = asyncio.create_task(losses_of_all(stack))
        # Two steps are well: the third, then, is under way.
        await stack.until(lambda: num_steps(stack, hanging) == 2)
        hanging.signal(signal.SIGTERM)
        assert await hanging.ended() == HUNG_STATUS
        await serving
