"""The textbook's comparison, on mock GPUs: who waits for whom under the three colocated policies.

Waiting is counted in tokens of other people's prompts that are computed between two tokens of a
running stream, and in steps, not in seconds: these say the same on any machine.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stack import Stack, collect, expected_mock_tokens, running_stack

from gateway.generation_streams import GenerationStream
from tandem.core.reports import SpanKind

BUDGET = 128
NUM_RUNNING = 4
RUNNING_TOKENS = 300
LONG_PROMPT = 1024
NUM_NEW = 3


@dataclass(frozen=True)
class Waits:
    """`stall`: prompt tokens computed between two tokens of a running stream, at the most.
    `new_waited_for_all`: no new stream got its first token before all running ones had ended.
    `num_mixed`: steps that computed prompt tokens beside running streams' next tokens."""

    stall: int
    new_waited_for_all: bool
    num_mixed: int


async def measure(batching: str) -> Waits:
    """A few streams run; then long prompts come. All answers are checked."""
    async with running_stack(
        0, 1, devices=["mock:h100"], batching=batching, prefill_token_budget=BUDGET
    ) as stack:
        running = [stack.submit(f"run{i}", (i,) * 16, RUNNING_TOKENS) for i in range(NUM_RUNNING)]
        await stack.until(lambda: all(len(each.generation.token_ids) > 2 for each in running))
        new = [stack.submit(f"new{i}", (50 + i,) * LONG_PROMPT, 3) for i in range(NUM_NEW)]
        answers = await asyncio.gather(*map(collect, (*running, *new)))
        for stream, (tokens, _) in zip((*running, *new), answers, strict=True):
            prompt = stream.generation.request.prompt_token_ids
            assert tokens == expected_mock_tokens(prompt, len(tokens))
        await stack.until_all_free()
        return waits(stack, running, new)


def waits(stack: Stack, running: list[GenerationStream], new: list[GenerationStream]) -> Waits:
    (steps,) = stack.dispatcher.steps.values()
    prefilled = {
        span.number: span.num_prefill_tokens for span in stack.spans("decode", SpanKind.STEP)
    }
    mixed = sum(
        1
        for span in stack.spans("decode", SpanKind.STEP)
        if span.num_tokens > span.num_prefill_tokens > 0
    )

    def indices(stream: GenerationStream) -> list[int]:
        sequence_id = stream.generation.sequence_id
        return [i for i, step in enumerate(steps) if sequence_id in step.sequence_ids]

    stalls = [
        sum(prefilled[step.step] for step in steps[before + 1 : after + 1])
        for stream in running
        for before, after in zip(indices(stream)[2:], indices(stream)[3:], strict=False)
    ]
    last_of_running = max(indices(stream)[-1] for stream in running)
    first_of_new = min(indices(stream)[0] for stream in new)
    return Waits(max(stalls), first_of_new > last_of_running, mixed)


async def test_prefill_first_lets_the_running_streams_stall() -> None:
    found = await measure("prefill-first")
    assert found.stall >= LONG_PROMPT
    assert (found.new_waited_for_all, found.num_mixed) == (False, 0)


async def test_decode_first_lets_the_new_streams_wait() -> None:
    found = await measure("decode-first")
    assert found == Waits(stall=0, new_waited_for_all=True, num_mixed=0)


async def test_chunked_bounds_what_either_waits_for() -> None:
    found = await measure("chunked")
    assert found.stall == BUDGET
    assert not found.new_waited_for_all
    assert found.num_mixed >= LONG_PROMPT // BUDGET
