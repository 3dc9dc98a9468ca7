"""Workers that compute wrongly without a word are found out, and nobody else is."""

from __future__ import annotations

from typing import Any

import pytest
from stack import Stack, collect, expected_mock_tokens, running_stack

from gateway.effects import CheckResult
from tandem.core.grammar import Grammar, GrammarKind

PROMPT = tuple(range(40, 100))
NUM_TOKENS = 12
WRONG_ONCE = ("--allow-faults", "--faults=engine.wrong:times=1")


async def ask(stack: Stack, name: str, **params: Any) -> list[int]:
    """An answer, once it was checked, or was not."""
    self_checks = stack.dispatcher.metrics.self_checks
    num_before = self_checks.total()
    tokens, _ = await collect(stack.submit(name, PROMPT, NUM_TOKENS, **params))
    await stack.until(lambda: self_checks.total() > num_before)
    return tokens


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_a_wrong_token_is_found(role: str) -> None:
    settings: dict[str, Any] = {f"{role}_flags": WRONG_ONCE}
    async with running_stack(1, 1, self_check_rate=1.0, **settings) as stack:
        wrong = await ask(stack, "wrong")
        right = await ask(stack, "right")
        await stack.until_all_free()
        self_checks = stack.dispatcher.metrics.self_checks
    expected = expected_mock_tokens(PROMPT, NUM_TOKENS)
    assert wrong != expected
    assert right == expected
    assert self_checks == {CheckResult.WRONG: 1, CheckResult.SAME: 1}


@pytest.mark.parametrize("topology", [(1, 2), (0, 1)])
async def test_right_ones_are_the_same_whatever_was_asked_for(topology: tuple[int, int]) -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"temperature": 0.8, "seed": 11, "logprobs": 2},
        {"min_tokens": 5, "ignore_eos": False, "temperature": 1.0, "seed": 3},
        {"grammar": Grammar(GrammarKind.REGEX, "([a-z]{2,9} ){20}")},
    ]
    async with running_stack(*topology, self_check_rate=1.0) as stack:
        for number, params in enumerate(asked):
            await ask(stack, f"r{number}", **params)
        stopped = stack.submit("stopped", PROMPT, 1000)
        await stack.until(lambda: len(stopped.generation.token_ids) > 5)
        stopped.stop()
        self_checks = stack.dispatcher.metrics.self_checks
        await stack.until(lambda: self_checks.total() > len(asked))
        await stack.until_all_free()
    assert self_checks == {CheckResult.SAME: len(asked) + 1}


async def test_checks_do_not_touch_what_is_asked_meanwhile() -> None:
    async with running_stack(1, 2, self_check_rate=1.0) as stack:
        streams = [stack.submit(f"r{number}", PROMPT[number:], 24) for number in range(24)]
        for number, stream in enumerate(streams):
            tokens, _ = await collect(stream)
            assert tokens == expected_mock_tokens(PROMPT[number:], 24)
        self_checks = stack.dispatcher.metrics.self_checks
        await stack.until(lambda: self_checks.total() == len(streams))
        await stack.until_all_free()
    assert self_checks == {CheckResult.SAME: len(streams)}
