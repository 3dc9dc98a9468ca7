"""Nights that are bad for memory, on mock GPUs: real processes, real gRPC, every KV byte read.

Each test says what an operator would see, what shows it, and what the system does about it.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from stack import Stack, collect, expected_mock_tokens, running_stack

from gateway.decode_view import DecodeView
from gateway.shared_state import Limits
from gateway.tokens import Ended

VOCAB = 256


def prompt_of(rng: random.Random, length: int) -> tuple[int, ...]:
    return tuple(rng.randrange(VOCAB) for _ in range(length))


def expect_short_answers(stack: Stack) -> None:
    """Let admission count on answers of a token, as if all before had been."""
    for _ in range(32):
        stack.dispatcher._scheduler._lifecycle.lengths.observe(1)


async def served(stack: Stack, requests: dict[tuple[int, ...], int]) -> list[Ended]:
    """Serve all of them at once; their tokens are checked."""
    streams = {
        prompt: stack.submit(f"r{number}", prompt, max_tokens)
        for number, (prompt, max_tokens) in enumerate(requests.items())
    }
    ends: list[Ended] = []
    for prompt, stream in streams.items():
        tokens, ended = await collect(stream)
        assert tokens == expected_mock_tokens(prompt, requests[prompt])
        ends.append(ended)
    return ends


@pytest.mark.parametrize("parked_kv_bytes", [0, 2**30])
@pytest.mark.parametrize(
    ("topology", "flags"),
    [((1, 1), ()), ((0, 1), ()), ((1, 1), ("--mock-runs-ahead",)), ((1, 2), ())],
)
async def test_out_of_memory_under_a_shared_prefix_with_long_answers(
    topology: tuple[int, int], flags: tuple[str, ...], parked_kv_bytes: int
) -> None:
    """All begin alike and are admitted cheaply, then grow by themselves until the pool is full. The
    preemptions in `served_by` show it; nobody fails, stalls for good or gets a wrong token."""
    rng = random.Random(0)
    system = prompt_of(rng, 96)
    requests = {(*system, *prompt_of(rng, 8)): rng.randint(60, 120) for _ in range(24)}
    decode_flags = [f"--parked-kv-bytes={parked_kv_bytes}"]
    # The whole answers of two or three, beside what all have in common.
    flags = (*flags, "--num-blocks=28")
    devices = ("mock:h100",)
    async with running_stack(
        *topology, *flags, devices=devices, decode_flags=decode_flags
    ) as stack:
        expect_short_answers(stack)
        ends = await served(stack, requests)
        assert sum(each.served_by.num_preemptions for each in ends) > 0
        assert not any(each.served_by.num_losses for each in ends)
        # What a copy costs is not known before there was one.
        assert any(each.parked for each in stack.dispatcher.preempted) is bool(parked_kv_bytes)
        await stack.until_all_free()


async def test_answers_that_end_as_expected_are_never_preempted() -> None:
    """Admission learns how long answers are: a second wave like the first fits, though `max_tokens`
    is many times more."""
    rng = random.Random(1)
    async with running_stack(1, 1, "--num-blocks=64") as stack:
        for _wave in range(3):
            streams = []
            for _ in range(24):
                prompt = prompt_of(rng, 40)
                stops = frozenset(expected_mock_tokens(prompt, 24)[16:])
                streams.append(stack.submit(f"r{rng.random()}", prompt, 400, stop_token_ids=stops))
            ends = [(await collect(stream))[1] for stream in streams]
        assert sum(each.served_by.num_preemptions for each in ends) == 0
        (view,) = stack.dispatcher._scheduler._fleet.decode.values()
        assert view.step_times.is_measured
        await stack.until_all_free()


async def test_one_long_prompt_among_many_short_chats() -> None:
    """A prompt that takes most of both pools waits for its room and gets it; those behind it that
    are short are served meanwhile, and it is not passed for ever."""
    rng = random.Random(2)
    limits = Limits(max_batch_tokens=512)
    devices = ("mock:h100",)
    async with running_stack(1, 1, "--num-blocks=2100", devices=devices, limits=limits) as stack:
        long = prompt_of(rng, 32_000)
        # What a token takes is known before the night begins.
        for length in (20, 1000, 40, 2000):
            await collect(stack.submit(f"warm-up {length}", prompt_of(rng, length), 2))
        order: list[str] = []

        async def serve(name: str, prompt: tuple[int, ...], max_tokens: int) -> None:
            tokens, _ = await collect(stack.submit(name, prompt, max_tokens))
            assert tokens == expected_mock_tokens(prompt, max_tokens)
            order.append(name)

        async with asyncio.TaskGroup() as tasks:
            for number in range(60):
                if number == 10:
                    tasks.create_task(serve("long", long, 4))
                tasks.create_task(serve(f"short {number}", prompt_of(rng, 30), 20))
        assert order.index("long") > 40
        await stack.until_all_free()


async def test_fragmentation_by_mixed_lengths_is_at_most_a_block_a_sequence() -> None:
    """What no token uses is the end of each sequence's last block, and the block that it begins
    with: `num_unused_slots` shows it, and mixed lengths never add up to more."""
    rng = random.Random(3)
    requests = {prompt_of(rng, rng.randint(1, 200)): rng.randint(2, 60) for _ in range(48)}
    async with running_stack(1, 1, "--num-blocks=400") as stack:
        num_unused, num_seqs = [0], [0]

        def watch() -> None:
            (view,) = stack.dispatcher._scheduler._fleet.decode.values()
            assert isinstance(view, DecodeView)
            num_unused.append(view.num_unused_slots)
            num_seqs.append(len(view.generations))

        heard = stack.dispatcher.heard
        stack.dispatcher.heard = lambda *args: (heard(*args), watch())  # type: ignore[method-assign]
        # A worker counts twice a second.
        while not any(num_unused):
            await served(stack, requests)
        block_size = 16
        assert max(num_unused) <= 2 * block_size * max(num_seqs)
        await stack.until_all_free()
