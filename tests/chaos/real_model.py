"""The real model under the same faults: its answers are those of a fleet in which nothing happens.

Tier (b) of docs/architecture.md: the same bits, on whatever worker a sequence goes on.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from stack import Stack, collect, running_stack
from watched import Load, Watched

from tandem.artifacts.resolve import resolve
from tandem.core.grammar import Grammar, GrammarKind

FLEET: dict[str, Any] = {
    "model": "default",
    "devices": ("cpu:0", "cpu:1"),
    # With caching all prompts, which are few, go to the worker that had them first, and none to one
    # that was started to die of them.
    "shared_flags": ("--dtype=float32", "--prefix-caching=off"),
}
NUM_TOKENS = 32
QUESTIONS = ("Write a haiku.", "What is a prime?", "Why is the sky blue?", "Count to ten.")
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.8, "top_p": 0.95, "seed": 11},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5},
    {"grammar": Grammar(GrammarKind.REGEX, "([a-z]{2,9} ){20}")},
)


def prompts() -> list[tuple[int, ...]]:
    tokenizer = resolve("default").tokenizer()
    chats = ([{"role": "user", "content": each}] for each in QUESTIONS)
    return [tuple(tokenizer.encode(tokenizer.apply_chat_template(chat))) for chat in chats]


async def undisturbed() -> list[list[int]]:
    """The answers."""
    flags = FLEET["shared_flags"]
    async with running_stack(1, 1, *flags, model="default", devices=FLEET["devices"]) as stack:
        streams = [
            stack.submit(f"r{number}", prompt, NUM_TOKENS, **settings)
            for number, (prompt, settings) in enumerate(zip(prompts(), SETTINGS, strict=True))
        ]
        return [(await collect(stream))[0] for stream in streams]


class RealLoad(Load):
    """Requests whose answers are known, whatever is asked for."""

    def __init__(self, stack: Stack, answers: list[list[int]], seed: str) -> None:
        super().__init__(stack, seed)
        self._answers = answers
        self._prompts = prompts()

    def wave(self, count: int, length: int, max_tokens: int) -> list[Watched]:
        """At most six, since a core computes them; none of them is cancelled."""
        places = [number % len(self._prompts) for number in range(min(count, 6))]
        return [
            self.watch(
                self._prompts[place],
                partial(self._answers.__getitem__, place),
                NUM_TOKENS,
                **SETTINGS[place],
            )
            for place in places
        ]
