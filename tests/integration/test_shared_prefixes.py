"""Shared prefixes between real processes: who has what, what it saves, and that nothing is wrong.

Mock GPUs read every byte of KV that a token depends on, so a block that is not what its hash says
would change the tokens.
"""

from __future__ import annotations

import asyncio
import random
import signal

import pytest
from stack import Stack, collect, expected_mock_tokens, running_stack

from gateway.tokens import ServedBy, ServingMode
from gateway.worker_view import WorkerView

BLOCK_SIZE = 16
SYSTEM = tuple(range(100, 200)) * 3  # 300 tokens: 18 blocks, and a part of one.
NUM_SHARED_TOKENS = len(SYSTEM) // BLOCK_SIZE * BLOCK_SIZE
NUM_TOKENS = 20


async def ask(
    stack: Stack,
    name: str,
    prompt: tuple[int, ...],
    salt: bytes = b"",
    num_tokens: int = NUM_TOKENS,
) -> ServedBy:
    """Ask, check every token, and wait until all blocks are free and all views up to date."""
    tokens, ended = await collect(stack.submit(name, prompt, num_tokens, salt))
    assert tokens == expected_mock_tokens(prompt, num_tokens)
    await stack.until_all_free()
    return ended.served_by


def view(stack: Stack, role: str) -> WorkerView:
    """The one worker of a role, as the gateway sees it."""
    (found,) = (
        each for each in stack.dispatcher._scheduler.workers if each.info.worker_id.startswith(role)
    )
    return found


def question(number: int) -> tuple[int, ...]:
    return (*SYSTEM, number, 7, 7)


async def test_a_shared_system_prompt_is_computed_and_sent_once() -> None:
    async with running_stack(1, 1) as stack:
        cold = await ask(stack, "cold", question(0))
        assert cold.num_cached_tokens == 0
        token_bytes = cold.kv_bytes // len(question(0))
        answers = [collect(stack.submit(f"r{n}", question(n), NUM_TOKENS)) for n in range(1, 17)]
        for number, (tokens, ended) in enumerate(await asyncio.gather(*answers), 1):
            assert tokens == expected_mock_tokens(question(number), NUM_TOKENS)
            by = ended.served_by
            assert by.num_cached_tokens == NUM_SHARED_TOKENS
            assert by.kv_bytes == (len(question(0)) - NUM_SHARED_TOKENS) * token_bytes
        prefill = view(stack, "prefill")
        assert prefill.num_cached_tokens == 16 * NUM_SHARED_TOKENS
        assert prefill.num_prompt_tokens == 17 * len(question(0))
        await stack.until_all_free()


async def test_a_burst_over_a_prompt_that_nobody_has_is_computed_and_sent_once() -> None:
    async with running_stack(1, 1) as stack:
        answers = [collect(stack.submit(f"r{n}", question(n), NUM_TOKENS)) for n in range(8)]
        served = []
        for number, (tokens, ended) in enumerate(await asyncio.gather(*answers)):
            assert tokens == expected_mock_tokens(question(number), NUM_TOKENS)
            served.append(ended.served_by)
        assert [each.num_cached_tokens for each in served] == [0, *[NUM_SHARED_TOKENS] * 7]
        token_bytes = served[0].kv_bytes // len(question(0))
        num_own_tokens = len(question(0)) - NUM_SHARED_TOKENS
        assert {each.kv_bytes for each in served[1:]} == {num_own_tokens * token_bytes}
        await stack.until_all_free()


async def test_blocks_are_held_once() -> None:
    async with running_stack(1, 1, devices=["mock:h100x20"]) as stack:
        await ask(stack, "cold", question(0), num_tokens=2)
        streams = [stack.submit(f"r{n}", question(n), 60) for n in range(8)]
        await stack.until(lambda: all(len(each.generation.token_ids) > 2 for each in streams))
        (decode,) = (name for name in stack.dispatcher.num_free if name.startswith("decode"))
        num_held = stack.dispatcher.num_blocks[decode] - stack.dispatcher.num_free[decode]
        num_shared = NUM_SHARED_TOKENS // BLOCK_SIZE
        num_own = -(-(len(question(0)) + 60) // BLOCK_SIZE) - num_shared
        assert num_shared + 8 <= num_held <= num_shared + 8 * num_own
        for stream in streams:
            stream.cancel()
        await stack.until_all_free()


async def test_it_can_be_turned_off() -> None:
    async with running_stack(1, 1, "--prefix-caching=off") as stack:
        first = await ask(stack, "a", question(1))
        again = await ask(stack, "b", question(1))
        assert again == first
        assert again.num_cached_tokens == 0


async def test_two_tenants_share_nothing() -> None:
    async with running_stack(1, 1) as stack:
        first = await ask(stack, "a", question(1), b"one")
        other = await ask(stack, "b", question(1), b"other")
        assert (other.num_cached_tokens, other.kv_bytes) == (0, first.kv_bytes)
        again = await ask(stack, "c", question(1), b"one")
        assert again.num_cached_tokens == NUM_SHARED_TOKENS


async def test_a_conversation_finds_its_own_answer_where_it_was_generated() -> None:
    """The decode worker has prompt and answer, so it computes what is new, at once."""
    async with running_stack(1, 1, local_prefill="auto") as stack:
        await ask(stack, "warm-up", tuple(range(50)), num_tokens=40)
        first = await ask(stack, "first", question(1), num_tokens=40)
        assert first.mode is ServingMode.DISAGGREGATED
        answer = expected_mock_tokens(question(1), 40)
        second = await ask(stack, "second", (*question(1), *answer, 5, 6))
        known = (len(question(1)) + len(answer) - 1) // BLOCK_SIZE * BLOCK_SIZE
        # Whichever computed it: the decode worker had all of it.
        if second.mode is ServingMode.LOCAL:
            assert second.num_cached_tokens == known
        else:
            assert second.num_cached_tokens == NUM_SHARED_TOKENS
            unsent = (len(question(1)) + len(answer) + 2 - known) * (
                first.kv_bytes // len(question(1))
            )
            assert second.kv_bytes == unsent


@pytest.mark.parametrize("flags", [(), ("--mock-runs-ahead",)])
async def test_a_cache_that_is_thrashed_loses_nothing_but_time(flags: tuple[str, ...]) -> None:
    """Prompts that never come again, through pools of a few prompts' size, and one that does."""
    rng = random.Random(0)
    async with running_stack(1, 1, "--num-blocks=40", *flags) as stack:
        for turn in range(6):
            streams = []
            for number in range(12):
                prompt = tuple(rng.randrange(256) for _ in range(rng.randint(1, 400)))
                streams.append((prompt, stack.submit(f"{turn}.{number}", prompt, NUM_TOKENS)))
            for prompt, stream in streams:
                tokens, _ = await collect(stream)
                assert tokens == expected_mock_tokens(prompt, NUM_TOKENS)
            await ask(stack, f"shared{turn}", question(turn))
        for role in ("prefill", "decode"):
            assert 0 < len(view(stack, role).prefix_index._digests) <= 40


@pytest.mark.parametrize(
    ("topology", "device", "share"),
    # Prefill workers are chosen by the seconds that their steps were seen to take, and a stall of
    # the machine counts in these; colocated ones by tokens.
    [((2, 2), "mock:h100x20", 0.5), ((0, 2), "mock:zero", 1.0)],
)
async def test_prompts_that_begin_alike_go_where_that_is_cached(
    topology: tuple[int, int], device: str, share: float
) -> None:
    async with running_stack(*topology, devices=[device]) as stack:
        systems = [tuple((i * 7 + n) % 256 for i in range(320)) for n in range(4)]
        for n, system in enumerate(systems):
            await ask(stack, f"cold{n}", system, num_tokens=2)
        found = []
        for turn in range(3):
            for n, system in enumerate(systems):
                by = await ask(stack, f"warm{turn}.{n}", (*system, turn), num_tokens=2)
                found.append(by.num_cached_tokens)
        assert set(found) <= {0, 320}
        assert found.count(320) >= share * len(found)


async def test_what_a_restarted_worker_has_is_learned_anew() -> None:
    async with running_stack(1, 1) as stack:
        await ask(stack, "first", question(1))
        assert view(stack, "decode").prefix_index._digests
        worker = stack.workers[1]
        worker.signal(signal.SIGKILL)
        await worker.stop()
        await worker.start()
        await stack.until(lambda: len(stack.dispatcher._scheduler.workers) == 2)
        cold = await ask(stack, "second", question(1))
        # The prefill worker has what it had; the decode worker has nothing.
        assert cold.num_cached_tokens == NUM_SHARED_TOKENS
        assert cold.kv_bytes == len(question(1)) * (cold.kv_bytes // len(question(1)))
        warm = await ask(stack, "third", question(1))
        assert warm.kv_bytes < cold.kv_bytes


async def test_a_broken_stream_rebases_the_view() -> None:
    async with running_stack(1, 1) as stack:
        await ask(stack, "first", question(1))
        before = set(view(stack, "prefill").prefix_index._digests)
        view(stack, "prefill").prefix_index._digests = {1: None, 2: None}
        for link in stack.dispatcher._links.values():
            link._hang_up.set()
        await stack.until(lambda: set(view(stack, "prefill").prefix_index._digests) == before)
        again = await ask(stack, "second", question(1))
        assert again.num_cached_tokens == NUM_SHARED_TOKENS
