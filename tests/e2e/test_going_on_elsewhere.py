"""The real model, when sequences lose their place: the answer is what it would have been.

Tier (b) of docs/architecture.md: sampling, penalties and grammars begin again behind the tokens
that there are, on whatever worker.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from stack import Stack, collect, running_stack

from gateway.generation import Generation
from gateway.generation_streams import GenerationStream
from tandem.artifacts.resolve import resolve
from tandem.core.grammar import Grammar, GrammarKind

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

NUM_TOKENS = 48
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.8, "top_p": 0.95, "seed": 11},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    {"grammar": Grammar(GrammarKind.REGEX, "([a-z]{2,9} ){20}")},
    {"temperature": 0.8, "seed": 5, "logprobs": 2},
    {"temperature": 1.0, "seed": 7, "min_tokens": NUM_TOKENS, "ignore_eos": False},
)


def prompts() -> list[tuple[int, ...]]:
    tokenizer = resolve("default").tokenizer()
    questions = ("Write a haiku.", "What is a prime?", "Why is the sky blue?") * 2
    rendered = (
        tokenizer.apply_chat_template([{"role": "user", "content": f"{number}: {each}"}])
        for number, each in enumerate(questions)
    )
    return [tuple(tokenizer.encode(each)) for each in rendered]


def submit_all(stack: Stack) -> list[GenerationStream]:
    return [
        stack.submit(f"r{number}", prompt, NUM_TOKENS, **settings)
        for number, (prompt, settings) in enumerate(zip(prompts(), SETTINGS, strict=True))
    ]


@pytest.fixture(scope="module")
def undisturbed() -> list[list[int]]:
    """The answers of a stack in which nothing happens."""

    async def answers() -> list[list[int]]:
        async with cpu_stack(1, 1) as stack:
            return [(await collect(stream))[0] for stream in submit_all(stack)]

    return asyncio.run(answers())


def cpu_stack(num_prefill: int, num_decode: int, *flags: str, **settings: Any) -> Any:
    return running_stack(
        num_prefill,
        num_decode,
        "--dtype=float32",
        *flags,
        model="default",
        devices=("cpu:0", "cpu:1"),
        **settings,
    )


@pytest.mark.parametrize("parked_kv_bytes", [0, 2**30])
async def test_the_preempted_say_the_same(
    undisturbed: list[list[int]], parked_kv_bytes: int
) -> None:
    decode_flags = [f"--parked-kv-bytes={parked_kv_bytes}"]
    async with cpu_stack(1, 1, "--num-blocks=20", decode_flags=decode_flags) as stack:
        for _ in range(32):
            stack.dispatcher._scheduler._lifecycle.lengths.observe(1)
        results = [await collect(stream) for stream in submit_all(stack)]
        assert [tokens for tokens, _ in results] == undisturbed
        served = [ended.served_by for _, ended in results]
        assert sum(each.num_preemptions for each in served) > 0
        assert any(each.num_resumed_tokens for each in served) or parked_kv_bytes
        await stack.until_all_free()


async def test_what_a_dead_worker_held_says_the_same(undisturbed: list[list[int]]) -> None:
    async with cpu_stack(1, 2) as stack:
        streams, worker = submit_all(stack), stack.workers[1]

        def runs_there(generation: Generation) -> bool:
            decode = generation.decode
            is_there = decode is not None and decode.address == worker.address
            return is_there and len(generation.token_ids) > 4

        # Not all: what this worker was sent may end before any has come to the other one.
        await stack.until(lambda: any(runs_there(each.generation) for each in streams), 60)
        worker.signal(signal.SIGKILL)
        results = [await collect(stream) for stream in streams]
        assert [tokens for tokens, _ in results] == undisturbed
        assert 0 < sum(ended.served_by.num_losses for _, ended in results) < len(streams)
