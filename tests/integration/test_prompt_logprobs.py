"""How likely prompts are, through real processes: told whole, wherever they are computed."""

from __future__ import annotations

import math

import pytest
from stack import MOCK_OUTPUT, collect, events_of, expected_mock_tokens, running_stack

from gateway.shared_state import Limits
from tandem.core.logprobs import LEAST_LOGPROB
from tandem.core.sequence import FinishReason

LETTER = pytest.approx(-math.log(MOCK_OUTPUT[1] - MOCK_OUTPUT[0]))
NUM_GENERATED = 5
LENGTHS = (1, 2, 16, 17, 100, 333)
MODEL_LEN = LENGTHS[-1] + NUM_GENERATED


def prompt_of(number: int, length: int) -> tuple[int, ...]:
    """In which letters, which are likely, stand by no rule that repeats."""
    return tuple(40 if (place * place + number) % 7 < 3 else 200 for place in range(length))


@pytest.mark.parametrize("setup", ["1p1d", "colocated", "local"])
async def test_each_token_of_a_prompt_has_its_own(setup: str) -> None:
    """Of prompts in several chunks, that begin alike, and were asked before."""
    async with running_stack(
        0 if setup == "colocated" else 1,
        1,
        f"--max-model-len={MODEL_LEN}",
        limits=Limits(max_batch_tokens=64),
        prefill_token_budget=50,
        local_prefill="auto" if setup == "local" else "off",
    ) as stack:
        for _ in range(2):
            prompts = [prompt_of(number % 2, length) for number, length in enumerate(LENGTHS)]
            streams = [
                stack.submit(f"r{number}", prompt, NUM_GENERATED, prompt_logprobs=1)
                for number, prompt in enumerate(prompts)
            ]
            for prompt, stream in zip(prompts, streams, strict=True):
                *tokens, ended = await events_of(stream)
                generated = expected_mock_tokens(prompt, NUM_GENERATED)
                assert [each.token_id for each in tokens] == [*prompt, *generated]
                assert [each.position for each in tokens] == list(range(len(tokens)))
                scores = [each.logprobs for each in tokens[: len(prompt)]]
                assert scores[0] is None
                assert [each and each.logprob for each in scores[1:]] == [
                    LETTER if token_id == 40 else LEAST_LOGPROB for token_id in prompt[1:]
                ]
                assert all(len(each.top_ids) == 1 for each in scores[1:] if each)
                assert ended.served_by.num_cached_tokens == 0
        # One that leaves no room for an answer, of which there is none.
        whole = prompt_of(2, MODEL_LEN)
        tokens, ended = await collect(stack.submit("whole", whole, 0, prompt_logprobs=0))
        assert (tuple(tokens), ended.finish_reason) == (whole, FinishReason.LENGTH)
        # What they leave in the cache is for others.
        _, ended = await collect(stack.submit("other", prompts[-1], 1))
        assert ended.served_by.num_cached_tokens > 0
        await stack.until_all_free()
